#!/bin/bash
# The worker is killed under fio, which verifies what it wrote: no I/O fails, and nothing is lost.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/killing.sh"

need_root
need fio
random_file "$work/backing" 64M
"$COWFS" create "$work/cow" "$work/backing"
# Without a timer no bit reaches the disk by itself: all of them have to come from the pending file.
mount_cow -o commit=0 "$work/cow" "$work/merged"

for direct in 0 1; do
    background fio --name=kill --filename="$work/merged" --direct=$direct --rw=randwrite --bs=4k-64k --size=32M \
        --numjobs=2 --offset_increment=32M --ioengine=libaio --iodepth=8 --verify=crc32c --do_verify=1 \
        --time_based --runtime=$((KILLS * 3 + 3)) --verify_fatal=1 --verify_state_save=0 --randseed="$SEED" --output="$work/fio-$direct"
    fio=$background
    check "the worker dies and is replaced (direct=$direct)" kill_workers "$work/merged"
    check "fio sees no error" eval 'wait "$fio" || { cat "$work/fio-$direct"; false; }'
done
check "it is still mounted, and unmounts" umount_cow "$work/merged"
