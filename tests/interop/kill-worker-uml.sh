#!/bin/bash
# The worker is killed under a UML guest that lives on the merged image: the guest does not notice.
. "$(dirname "$0")/interop.sh"
. "$(dirname "$0")/../integration/killing.sh"

cp "$UML_GUEST/root.ext4" "$work/backing"
chmod 0444 "$work/backing"
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"

cat >"$work/script" <<'EOT'
set -e
touch /host/up
n=0
while [ ! -e /host/enough ] || [ $n -le 20 ]; do
    n=$((n + 1))
    head -c $((n % 40 * 997)) /dev/urandom >/root/$((n % 100))
    sync
    [ $((n % 10)) != 0 ] || { echo 3 >/proc/sys/vm/drop_caches; cat /root/* >/dev/null; }
done
cd /root && sha256sum * >/host/sums
# Nothing in the log of this kernel but what every boot says.
! dmesg | grep -iE 'I/O error|EXT4-fs error|remount'
EOT
background "$(dirname "$0")/uml-run" -s "$share" -r ubd0 "ubd0=$work/merged" <"$work/script" >"$work/output"
guest_pid=$background
wait_until test -e "$share/up" -o ! -e "/proc/$guest_pid"
check "the worker dies and is replaced" kill_workers "$work/merged"
touch "$share/enough"
check "the guest saw no error" eval 'wait "$guest_pid" || { cat "$work/output"; false; }'

umount_cow "$work/merged"
mount_cow "$work/cow" "$work/merged"
check "e2fsck finds its file system sound" e2fsck -fn "$work/merged"
mount_fs -o ro,loop,noload "$work/merged" "$work/files"
check "every file is as the guest last saw it" eval 'cd "$work/files/root" && sha256sum --quiet -c "$share/sums"'
cd /
