#!/bin/bash
# A loop device with direct I/O has many writes under way at once while the merged image is read plainly, over and over:
# what stays cached of it is what was written, in an image smaller than the window and in one of a few pages.
. "$(dirname "$0")/../lib.sh"

need_root
need fio

# Sets `pages`: how many of the merged image's differ when it is read plainly and with O_DIRECT.
count_stale_pages() {
    dd if=merged iflag=direct bs=64K of=direct.copy status=none
    pages=$({ cmp -l merged direct.copy || true; } | awk '{ print int(($1 - 1) / 4096) }' | uniq | wc -l)
}

cd "$work"
for size in 8M 256K; do
    truncate -s "$size" "backing.$size"
    "$COWFS" create "cow.$size" "backing.$size"
    mount_cow "cow.$size" merged
    attach_loop --direct-io=on merged
    background fio --name=write --filename="$loop" --direct=1 --rw=randwrite --bs=4k --size="$size" --ioengine=libaio \
        --iodepth=16 --time_based --runtime=3 --norandommap --randseed="$SEED" --output="$work/fio"
    reads=0
    while kill -0 "$background" 2>/dev/null; do cat merged >/dev/null && ((++reads)); done
    check "$size: the writer sees no error" wait "$background"
    count_stale_pages
    expect_equal "$size: after $reads reads meanwhile no page is stale" "$pages" 0
    detach_loop "$loop"
    umount_cow merged
done
