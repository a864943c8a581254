#!/bin/bash
# kill-worker-loop.sh buffered|direct
# The worker is killed under an ext4 on a loop device that is being filled: no write fails, every file is whole, the
# file system is sound.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/killing.sh"

need_root
case ${1:-} in
buffered) direct_io=off ;;
direct) direct_io=on ;;
*) fail "usage: $0 buffered|direct" ;;
esac
truncate -s 512M "$work/backing"
mke2fs -q -t ext4 "$work/backing"
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"
attach_loop --direct-io="$direct_io" "$work/merged"
mount_fs "$loop" "$work/files"

fill() {
    local n
    for ((n = 0; ; n++)); do
        head -c $((n % 50 * 4001 + 1)) /dev/urandom >"$work/files/$n" || return 1
        ((n % 20)) || sync -f "$work/files" || return 1
        ((n < 300)) || rm "$work/files/$((n - 300))" || return 1
        [[ ! -e $work/enough ]] || break
    done
    (cd "$work/files" && find . -type f -name '[0-9]*' -exec sha256sum {} + >"$work/sums")
}
background fill
filler=$background
check "the worker dies and is replaced" kill_workers "$work/merged"
touch "$work/enough"
check "no write failed" wait "$filler"
check "there are files" test "$(wc -l <"$work/sums")" -gt 50

umount_fs "$work/files"
check "e2fsck finds it sound" e2fsck -fn "$loop"
detach_loop "$loop"
umount_cow "$work/merged"
mount_cow "$work/cow" "$work/merged"
attach_loop --direct-io="$direct_io" "$work/merged"
mount_fs "$loop" "$work/files"
check "every file is there and whole" eval 'cd "$work/files" && sha256sum --quiet -c "$work/sums"'
cd /
