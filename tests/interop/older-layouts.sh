#!/bin/bash
# COWs in the layouts older than today's, which UML still takes: what cowfs writes into one UML reads, and the reverse.
. "$(dirname "$0")/interop.sh"

size=$((4 << 20))
make_backing "$size"
mtime=$(stat -c %Y "$work/backing")

# An empty COW: the header (packed by perl), then holes. The fields follow the formats' definitions.
empty_cow() { # FILE DATA-OFFSET PACK-TEMPLATE FIELD...
    local file=$1 data_offset=$2
    shift 2
    perl -e 'print pack(shift, @ARGV)' "$@" >"$file"
    truncate --size=$((data_offset + size)) "$file"
}
v1=$work/v1 v2=$work/v2 v3_64bit=$work/v3-64bit
empty_cow "$v1" $((280 + 1024 + 232)) "a4 L< Z256 L< Q< L<" MOOO 1 "$work/backing" "$mtime" "$size" 512
empty_cow "$v2" $((4120 + 1024 + 488)) "a4 L> Z4096 L> Q> L>" OOOM 2 "$work/backing" "$mtime" "$size" 512
empty_cow "$v3_64bit" $((8192 + 4096)) "a4 L> L> x4 Q> L> L> L> Z4096 x4" \
    OOOM 3 "$mtime" "$size" 512 4096 0 "$work/backing"

make_changes
apply_changes "$work/model"
for cow in "$v1" "$v2" "$v3_64bit"; do
    header=$(head -c 280 "$cow" | sha256sum)
    mount_cow "$cow" "$work/merged"
    apply_changes "$work/merged"
    check "cowfs reads back what it wrote to ${cow##*/}" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"
    expect_equal "the header of ${cow##*/} keeps its layout" "$(head -c 280 "$cow" | sha256sum)" "$header"
done

cp "$work/model" "$work/model-before-uml"
make_changes
apply_changes "$work/model"
check "UML reads all three, then writes to them" guest "ubd0=$v1" "ubd1=$v2" "ubd2=$v3_64bit" "ubd3r=$work/new" <<'EOT'
set -e
for device in ubda ubdb ubdc; do
    blockio read /dev/$device >/host/$device
    blockio copy /dev/ubdd /dev/$device </host/changes
done
EOT
for device in ubda ubdb ubdc; do
    check "what UML reads on $device equals the model" same_bytes "$share/$device" "$work/model-before-uml"
done
for cow in "$v1" "$v2" "$v3_64bit"; do
    mount_cow "$cow" "$work/merged"
    check "cowfs reads what UML wrote to ${cow##*/}" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"
done
