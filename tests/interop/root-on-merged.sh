#!/bin/bash
# A UML guest lives with its root file system on a merged image; what it changed is there, sound, afterwards.
. "$(dirname "$0")/interop.sh"

cp "$UML_GUEST/root.ext4" "$work/backing"
chmod 0444 "$work/backing"
checksum=$(sha256sum <"$work/backing")
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"

check "a guest boots from the merged image and changes files" guest -r ubd0 "ubd0=$work/merged" <<'EOT'
set -e
grep -q '^/dev/root / ext4 rw' /proc/mounts
mkdir /root/data
for i in $(seq 200); do
    head -c $((i * 977)) /dev/urandom >/root/data/$i
done
rm /root/data/*3 /bin/tac
ln -s data/100 /root/link
cd /root && sha256sum data/* >sums
EOT
check "e2fsck finds it sound while mounted" e2fsck -fn "$work/merged"
umount_cow "$work/merged"

mount_cow "$work/cow" "$work/merged"
check "e2fsck finds it sound after another mount" e2fsck -fn "$work/merged"
check "a second boot, with synchronous writes, finds the files of the first" guest -r ubd0 "ubd0s=$work/merged" <<'EOT'
set -e
cd /root
test $(ls data | wc -l) = 180
test ! -e /bin/tac
sha256sum -c sums
cmp link data/100
rm -r data
EOT
check "e2fsck finds it sound after the second boot" e2fsck -fn "$work/merged"
expect_equal "the host sees that the second guest removed files" \
    "$(debugfs -R "ls -p /root" "$work/merged" 2>/dev/null | cut -d/ -f6 | sort | xargs)" ". .. link sums"
umount_cow "$work/merged"
expect_equal "the backing is unchanged" "$(sha256sum <"$work/backing")" "$checksum"
