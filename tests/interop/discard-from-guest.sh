#!/bin/bash
# A guest's discards and write-zeroes on a merged image read as zeros, touch nothing else, and take no space.
. "$(dirname "$0")/interop.sh"

make_backing $((8 << 20))
"$COWFS" create "$work/cow" "$work/backing"
blocks_of_cow() { stat -c %b "$work/cow"; }

# The first half goes into the COW, the second stays in the backing. Each kind of request then meets: whole pages,
# single sectors, a range that lies half here and half there, and one of more than UML's 32 KiB a piece.
random_file "$work/new" $((8 << 20))
echo "0 8192" >"$share/changes"
printf '%s\n' "0 2048" "2051 1" "2061 22" "8000 400" "10000 1" "10009 300" >"$share/discards"
printf '%s\n' "3000 2048" "5051 1" "5061 22" "8500 2" "12000 3000" "16383 1" >"$share/zeroes"

mount_cow "$work/cow" "$work/merged"
check "a guest writes to the merged image" guest "ubd0=$work/merged" "ubd1r=$work/new" <<<"$write_changes"
umount_cow "$work/merged"
full=$(blocks_of_cow)

mount_cow "$work/cow" "$work/merged"
check "a guest discards and zeroes, then reads" guest "ubd0=$work/merged" <<'EOT'
set -e
blockio discard /dev/ubda </host/discards
blockio zero /dev/ubda </host/zeroes
blockio read /dev/ubda >/host/seen
EOT
apply_changes "$work/model"
while read -r first count; do
    dd if=/dev/zero of="$work/model" bs=512 seek="$first" count="$count" conv=notrunc status=none
done < <(cat "$share/discards" "$share/zeroes")
check "the guest sees zeros there, and all else as before" same_bytes "$share/seen" "$work/model"
check "so does the host" same_bytes "$work/merged" "$work/model"
umount_cow "$work/merged"

# 4096 sectors that were in the COW are now holes; allow for the pieces that are smaller than a block.
check "the COW takes less space than before: $(blocks_of_cow) blocks, $full before" \
    test "$(blocks_of_cow)" -lt $((full - 3900))

check "UML reads the COW" guest "ubd0=$work/cow" <<<"blockio read /dev/ubda >/host/seen"
check "what UML reads equals the model" same_bytes "$share/seen" "$work/model"
