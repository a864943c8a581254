#!/bin/bash
# Everything of cowfs is killed, and a real UML writes the COW before cowfs sees it again: what the killed mount has
# left would bring back writes that UML never saw, so the COW is refused until the user chooses.
. "$(dirname "$0")/interop.sh"
. "$(dirname "$0")/../integration/killing.sh"

random_file "$work/backing" 1M
random_file "$work/data" 1M
cp "$work/data" "$share/data"
left_behind() { "$COWFS" info --json "$work/cow" | jq .left_behind_sectors; }

# A write that is acknowledged and not flushed, and then both processes are killed while the file is still open: a
# close would flush.
killed_mount() {
    rm -f "$work/cow"
    "$COWFS" create "$work/cow" "$work/backing"
    mount_cow -o commit=0 "$work/cow" "$work/merged"
    local worker supervisor
    worker=$(worker_of "$work/merged")
    supervisor=$(supervisor_of "$work/merged")
    background dd if="$work/pipe" of="$work/merged" bs=8192 iflag=fullblock conv=notrunc status=none 2>/dev/null
    exec 7>"$work/pipe"
    head -c 8192 "$work/data" >&7
    wait_until has_written "$background" 8192
    kill -KILL "$supervisor" "$worker"
    exec 7>&-
    wait "$background" || true # its close fails: nobody is there
    umount "$work/merged"
}
has_written() { (($(sed -n 's/^wchar: //p' "/proc/$1/io") >= $2)); }
mkfifo "$work/pipe"

write_by_uml() {
    guest "ubd0=$work/cow,$work/backing" <<'EOT'
dd if=/host/data of=/dev/ubda bs=512 count=1 seek=100 conv=notrunc 2>/dev/null && sync
EOT
}
killed_mount
check "the killed mount has left sectors" test "$(left_behind)" = 16
check "UML writes the COW meanwhile" write_by_uml
check "a mount is refused" fails_with 1 "$COWFS" mount "$work/cow" "$work/merged"
check "it says why" says "somebody else has written the COW since"
check "and what to do" says "cowfs check --apply-pending.*--drop-pending"
check "so is a read-only one" fails_with 1 "$COWFS" mount -o ro "$work/cow" "$work/merged"
check "the user drops them" "$COWFS" check --drop-pending "$work/cow"
mount_cow "$work/cow" "$work/merged"
check "then the first sectors are the backing's" cmp -n 8192 "$work/merged" "$work/backing"
check "and UML's write is there" cmp -n 512 -i 51200:0 "$work/merged" "$work/data"
umount_cow "$work/merged"

killed_mount
check "UML writes the COW again" write_by_uml
check "now the user applies what was left" "$COWFS" check --apply-pending "$work/cow"
mount_cow "$work/cow" "$work/merged"
check "the killed mount's write is there" cmp -n 8192 "$work/merged" "$work/data"
check "and UML's" cmp -n 512 -i 51200:0 "$work/merged" "$work/data"
umount_cow "$work/merged"

killed_mount
check "without UML in between a mount applies them by itself" mount_cow "$work/cow" "$work/merged"
check "the killed mount's write is there" cmp -n 8192 "$work/merged" "$work/data"
umount_cow "$work/merged"
expect_equal "nothing is left" "$(left_behind)" 0
