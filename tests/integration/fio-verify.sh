#!/bin/bash
# fio-verify.sh ENGINE buffered|direct [CACHE]
# fio's jobs write checksummed blocks to a merged image side by side, and find every one of them: in the same run, and
# after cowfs umount and mount. What they do not write is still the backing's. CACHE is cowfs mount's cache= option.
. "$(dirname "$0")/../lib.sh"

engine=${1:-} mode=${2:-} cache=${3:-window}
case $mode in
buffered) direct=0 ;;
direct) direct=1 ;;
*) fail "usage: $0 ENGINE buffered|direct [CACHE]" ;;
esac
need fio
cd "$work" # fio leaves files in the current directory when it fails
random_file backing $((48 << 20))
chmod 0444 backing
backing=$(sha256sum <backing)
fio --name=probe --filename=probe --ioengine="$engine" --direct="$direct" --rw=write --bs=4k --size=4k >log 2>&1 ||
    skip "because fio cannot use $engine here: $(tail -1 log)"

# Each job has a region of its own, since fio cannot verify what another job writes; between two there is one of the
# backing's, of 4 MiB. Block sizes that are mixed are multiples of each other for the same reason.
cat >jobs <<EOF
[global]
filename=$work/merged
ioengine=$engine
direct=$direct
iodepth=8
size=8M
fallocate=none
allow_file_create=0
verify=crc32c
verify_fatal=1
verify_state_save=0
[random]
offset=0M
rw=randwrite
bs=4k
EOF
# fio's mmap engine takes no heed of offset=, so all jobs would meet at 0.
[[ $engine == mmap ]] || cat >>jobs <<EOF
[in-turn]
offset=12M
rw=write
bs=64k
[mixed]
offset=24M
rw=randwrite
bssplit=4k/60:8k/20:16k/20
[read-and-write]
offset=36M
rw=randrw
rwmixwrite=70
bs=2k
fsync=500
EOF
gaps_are_the_backings() {
    local at
    for at in 8 20 32 44; do
        cmp --ignore-initial=$((at << 20)) --bytes=$((4 << 20)) merged backing || return
    done
}

"$COWFS" create cow backing
mount_cow -o "cache=$cache" cow merged
check "fio $engine, $mode, cache=$cache: jobs write and verify" fio --do_verify=1 --randseed="$SEED" jobs
check "what no job wrote is the backing's" gaps_are_the_backings
check "they write once more, other blocks" fio --do_verify=0 --randseed=$((SEED + 1)) jobs
umount_cow merged

mount_cow -o "cache=$cache" cow merged
check "all is found again after cowfs umount and mount" fio --verify_only=1 --randseed=$((SEED + 1)) jobs
check "what no job wrote is still the backing's" gaps_are_the_backings
umount_cow merged
expect_equal "the backing is as it was" "$(sha256sum <backing)" "$backing"
