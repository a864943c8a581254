#!/bin/bash
# merge-file-systems.sh FS: merge on a file system of its own (a loop device): the content is right, holes stay holes,
# blocks are shared where the file system can, and a full disk leaves nothing.
. "$(dirname "$0")/../lib.sh"

need_root
fs=$1
need "mkfs.$fs" xfs_io filefrag
truncate --size=1G "$work/disk"
"mkfs.$fs" -q "$work/disk"
attach_loop "$work/disk"
mount_fs "$loop" "$work/mnt"
cd "$work/mnt"
at_exit cd /

# Data, a hole, data, and a part of a block: each with changes, and a hole in the COW over the backing's data.
truncate --size=$(((100 << 20) + 777)) base
head -c 30M /dev/urandom | dd of=base bs=1M conv=notrunc status=none
head -c 20M /dev/urandom | dd of=base bs=1M seek=60 conv=notrunc status=none
tail -c 70000 base >end && random_file end 70000 && dd if=end of=base bs=1 seek=$(((100 << 20) + 777 - 70000)) \
    conv=notrunc status=none 2>/dev/null
rm end
sync
"$COWFS" create cow base
: >"$work/point"
mount_cow cow "$work/point"
head -c 5M /dev/urandom | dd of="$work/point" bs=1M seek=10 conv=notrunc status=none
head -c 300000 /dev/urandom | dd of="$work/point" bs=4096 seek=11000 conv=notrunc status=none
for ((i = 0; i < 200; i++)); do
    head -c 1536 /dev/urandom | dd of="$work/point" bs=512 seek=$((RANDOM * 4 % 200000)) conv=notrunc status=none
done
fallocate --punch-hole --keep-size --offset 2M --length 3M "$work/point"
cp "$work/point" "$work/model"
umount_cow "$work/point"
truncate --size=$(((100 << 20) + 777)) "$work/model"
sync

used() { df --output=used -B1 . | tail -1; }
before=$(used)
check "it merges" "$COWFS" merge --quiet cow out
sync
check "into the right content" same_bytes out "$work/model"
expect_equal "of the right size" "$(stat -c %s out)" $(((100 << 20) + 777))
check "holes stay holes" test "$(du -B1 out | cut -f1)" -lt $((60 << 20))
check "so does the hole that the COW has" xfs_io -r -c "seek -h 2M" out
# XFS sets room aside in pieces of 128 KiB for what is written into shared blocks, and shows it as data.
check "  indeed" test "$(xfs_io -r -c 'seek -h 2M' out | awk '/HOLE/ { print $2 }')" -le $((3 << 20))
if [[ $fs != ext4 ]]; then
    # Both have 50 MiB of data. XFS sets room aside for what is written into shared blocks.
    check "blocks are shared" test $(($(used) - before)) -lt $((25 << 20))
    check "  as filefrag sees it" bash -c 'filefrag -v out | grep -q shared'
fi
cp --sparse=always "$work/model" "$work/plain"
check "the smallest COW of the result" "$COWFS" convert --quiet --backing base out again
check "compacts to itself" "$COWFS" compact --quiet again
check "and merges into it" "$COWFS" merge --quiet --force again out
check "  again" same_bytes out "$work/model"
check "the COW compacts" "$COWFS" compact --quiet cow
check "and merges into the same" "$COWFS" merge --quiet --force cow out
check "  again" same_bytes out "$work/model"
cp -p base old-base

check "it merges in place, with a sibling" "$COWFS" merge --in-place --quiet --yes cow --siblings again
check "into the right content" same_bytes base "$work/model"
check "the sibling has it, too" "$COWFS" merge --quiet --force again out
check "  indeed" same_bytes out "$work/model"
check "the COW takes no space any more" test "$(du -B1 cow | cut -f1)" -le 65536

# Shared blocks take no space: only without them can the disk be full.
[[ $fs == ext4 ]] || exit 0
rm -f out again cow old-base
random_file big 200000000
"$COWFS" create cow big
mount_cow cow "$work/point"
head -c 3M /dev/urandom | dd of="$work/point" bs=1M seek=10 conv=notrunc status=none
umount_cow "$work/point"
fallocate --length $(($(df --output=avail -B1 . | tail -1) - (60 << 20))) filler
names=$(ls -A)
check "a full disk is a failure" fails_with 1 "$COWFS" merge cow out
check "  that is named" says 'cowfs: .*/out: .*No space left on device'
expect_equal "  and leaves nothing" "$(ls -A)" "$names"
