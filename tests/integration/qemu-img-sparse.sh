#!/bin/bash
# What is data and what is a hole of a merged image is what both files say together: qemu-img map shows it, and copies
# by qemu-img convert and cp have the same content and stay as sparse. qemu-img convert fills a merged image as well.
. "$(dirname "$0")/../lib.sh"

need qemu-img qemu-io jq
mib=$((1 << 20))
kib_of() { du -k "$1" | cut -f1; }
map_of() { # START+LENGTH of each piece of data, in KiB
    qemu-img map --output=json "${@:2}" -f raw "$1" |
        jq -r '[.[] | select(.data) | "\(.start / 1024)+\(.length / 1024)"] | join(" ")'
}

truncate --size=64M "$work/backing"
for at in 8 16 24 40; do random_file "$work/data" $((2 * mib)) &&
    dd if="$work/data" of="$work/backing" bs=1M seek="$at" conv=notrunc status=none; done
chmod 0444 "$work/backing"
backing=$(sha256sum <"$work/backing")
cp "$work/backing" "$work/model"
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"
expect_equal "an empty COW: the map is the backing's" "$(map_of "$work/merged")" \
    "8192+2048 16384+2048 24576+2048 40960+2048"

# Over a hole, over data, across the edge of data; and then a discard of what only the backing has, of what only the
# COW has, and of a hole.
for file in merged model; do
    qemu-io -f raw -d unmap "$work/$file" >"$work/log" <<EOT || fail "$(<"$work/log")"
write -P 1 32M 1M
write -P 2 17M 64k
write -P 3 9M 2M
write -P 4 50M 4k
write -P 5 52M 1M
discard 24M 1M
discard 52M 512k
discard 60M 2M
flush
EOT
done
map="8192+3072 16384+2048 25600+1024 32768+1024 40960+2048 51200+4 53760+512"
expect_equal "after changes and discards the map shows both files together" "$(map_of "$work/merged")" "$map"
umount_cow "$work/merged"
mount_cow -o ro "$work/cow" "$work/merged"
expect_equal "and after cowfs umount and a read-only mount" "$(map_of "$work/merged")" "$map"

# Some blocks more for the file system's own needs.
most=$((3072 + 2048 + 1024 + 1024 + 2048 + 4 + 512 + 64))
is_copy() { # FILE
    ls -ls "$1" && same_bytes "$1" "$work/model" && test "$(kib_of "$1")" -le "$most"
}
cp --sparse=always "$work/merged" "$work/copy"
check "cp --sparse=always" is_copy "$work/copy"
cp "$work/merged" "$work/copy"
check "cp, which asks for data and holes" is_copy "$work/copy"
for cache in writeback none; do
    rm -f "$work"/copy*
    qemu-img convert -f raw -O raw -T "$cache" -t "$cache" "$work/merged" "$work/copy"
    check "qemu-img convert to raw, cache $cache" is_copy "$work/copy"
    qemu-img convert -f raw -O qcow2 -T "$cache" -t "$cache" "$work/merged" "$work/copy.qcow2"
    check "qemu-img convert to qcow2, cache $cache: equal" \
        qemu-img compare -T "$cache" -f raw -F qcow2 "$work/merged" "$work/copy.qcow2"
    check "and small: $(kib_of "$work/copy.qcow2") KiB" test "$(kib_of "$work/copy.qcow2")" -le $((most + 1024))
done
umount_cow "$work/merged"

# --- into a merged image ---
for cache in writeback none; do
    "$COWFS" create --force "$work/cow" "$work/backing"
    mount_cow "$work/cow" "$work/merged"
    qemu-img convert -n -f qcow2 -O raw -t "$cache" "$work/copy.qcow2" "$work/merged"
    umount_cow "$work/merged"
    mount_cow "$work/cow" "$work/merged"
    check "qemu-img convert -n to a merged image, cache $cache: equal" same_bytes "$work/merged" "$work/model"
    check "its COW has nothing but the data: $(kib_of "$work/cow") KiB" test "$(kib_of "$work/cow")" -le $((most + 64))
    umount_cow "$work/merged"
done
expect_equal "the backing is as it was" "$(sha256sum <"$work/backing")" "$backing"
