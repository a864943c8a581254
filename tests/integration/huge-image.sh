#!/bin/bash
# An 8 TiB image: written at its start, middle and end, it reads back, shows exactly these places as data, forgets them
# when they are discarded, and has them again after cowfs umount and mount; with a daemon no bigger than any.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../huge-files.sh"

need xfs_io jq pgrep
tib=$((1 << 40)) mib=$((1 << 20))
size=$((8 * tib))
place_for $((size + size / 1000)) # the COW: 8 TiB of data area, 2 GiB of bitmap

truncate --size="$size" "$place/backing"
random_file "$work/data" $mib
# The backing has data of its own in a place that the COW shares.
dd if="$work/data" of="$place/backing" bs=1M seek=$((3 * tib)) oflag=seek_bytes conv=notrunc status=none
chmod 0444 "$place/backing"
cow=$place/cow
"$COWFS" create "$cow" "$place/backing"

info() { "$COWFS" info --json "$cow" | jq "$1"; }
kib_of_cow() { du -k "$cow" | cut -f1; }
put() { # FILE OFFSET
    dd if="$1" of="$work/merged" bs=1M seek="$2" oflag=seek_bytes conv=notrunc,fsync status=none
}
is_at() { # FILE OFFSET
    cmp --ignore-initial="0:$2" --bytes=$mib "$1" "$work/merged"
}
data_and_holes() { # each as WORD OFFSET
    xfs_io -r -c 'seek -a -r 0' "$work/merged" | grep -v Whence | tr -s '\t ' ' '
}

mount_cow "$cow" "$work/merged"
expect_equal "the merged image has 8 TiB" "$(stat -c %s "$work/merged")" "$size"
expect_equal "data is only where the backing has it" "$(data_and_holes)" "HOLE 0
DATA $((3 * tib))
HOLE $((3 * tib + mib))"

random_file "$work/new" $mib
places=(0 $((3 * tib + mib / 2)) $((4 * tib + 64 * 1024)) $((size - mib)))
for at in "${places[@]}"; do put "$work/new" "$at"; done
map="DATA 0
HOLE $mib
DATA $((3 * tib))
HOLE $((3 * tib + mib * 3 / 2))
DATA $((4 * tib + 64 * 1024))
HOLE $((4 * tib + 64 * 1024 + mib))
DATA $((size - mib))
HOLE $size" # the end of a file counts as one
all_there() {
    local at
    for at in "${places[@]}"; do is_at "$work/new" "$at" || return; done
    cmp --ignore-initial=$((3 * tib)):0 --bytes=$((mib / 2)) "$work/merged" "$work/data"
}
check "what was written at the start, in the middle and at the end reads back" all_there
expect_equal "SEEK_DATA and SEEK_HOLE find exactly these places" "$(data_and_holes)" "$map"
expect_equal "cowfs info counts the sectors" "$(info .sectors_in_cow)" $((4 * 2048))
umount_cow "$work/merged"
check "the COW takes what was written: $(kib_of_cow) KiB" test "$(kib_of_cow)" -le $((4 * 1024 + 256))

mount_cow "$cow" "$work/merged"
check "all reads back after cowfs umount and mount" all_there
expect_equal "SEEK_DATA and SEEK_HOLE find it" "$(data_and_holes)" "$map"

for at in "${places[@]}"; do
    fallocate --punch-hole --keep-size --offset "$at" --length $mib "$work/merged"
done
sync "$work/merged"
expect_equal "discarded places are holes" "$(data_and_holes)" "HOLE 0
DATA $((3 * tib))
HOLE $((3 * tib + mib / 2))"
check "and take no space: $(kib_of_cow) KiB" test "$(kib_of_cow)" -le 256
# A sector over data of the backing must stay in the COW, to say that it is zero.
expect_equal "cowfs info still counts their sectors" "$(info .sectors_in_cow)" $((4 * 2048))
head -c $mib /dev/zero >"$work/zeros"
for at in "${places[@]}"; do check "zeros read back from $at" is_at "$work/zeros" "$at"; done

# All of it, at once: what is a hole anyway must cost nothing.
fallocate --punch-hole --keep-size --offset 0 --length "$size" "$work/merged"
sync "$work/merged"
expect_equal "after a discard of all there is no data" "$(data_and_holes)" "HOLE 0"
check "and the COW takes no space: $(kib_of_cow) KiB" test "$(kib_of_cow)" -le 256
expect_equal "cowfs info counts what covers the backing's data, and what was there" "$(info .sectors_in_cow)" \
    $((4 * 2048 + 1024))

daemons=$(pgrep --full "cowfs (mount|serve) .*$cow" | xargs) # the supervisor and the worker
check "there is a daemon" test -n "$daemons"
for daemon in $daemons; do
    peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$daemon/status")
    check "process $daemon of it never took more than 64 MiB: $peak KiB" test "$peak" -le $((64 * 1024))
done
umount_cow "$work/merged"

mount_cow -o ro "$cow" "$work/merged"
expect_equal "and the same after cowfs umount and a read-only mount" "$(data_and_holes)" "HOLE 0"
umount_cow "$work/merged"
expect_equal "the backing has what it had, where it had it" \
    "$(xfs_io -r -c 'seek -a -r 0' "$place/backing" | tail -n +2 | xargs)" \
    "HOLE 0 DATA $((3 * tib)) HOLE $((3 * tib + mib))"
check "the same data" cmp --ignore-initial=$((3 * tib)):0 --bytes=$mib "$place/backing" "$work/data"
