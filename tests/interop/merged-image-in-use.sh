#!/bin/bash
# While a UML guest holds a merged image, a second guest is refused it as it would be any file, and cowfs umount
# leaves it mounted: the guest notices nothing.
. "$(dirname "$0")/interop.sh"

make_backing $((4 << 20))
make_changes
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"

background guest "ubd0=$work/merged" "ubd1r=$work/new" <<EOT
set -e
exec 3<>/dev/ubda
touch /host/held
while [ ! -e /host/release ]; do sleep 0.2; done
$write_changes
blockio read /dev/ubda >/host/seen
EOT
holder=$background
check "a guest holds the merged image" wait_until test -e "$share/held"

check "a second guest cannot open it" \
    "$interop/uml-run" -l "$work/second-log" "ubd0=$work/merged" <<<'! head -c 512 /dev/ubda >/dev/null'
check "it is told that the file is locked" grep "Failed to lock '$work/merged'" "$work/second-log"
check "cowfs umount fails" not "$COWFS" umount "$work/merged"
check "the image stays mounted" is_mounted "$work/merged"

touch "$share/release"
check "the first guest writes and reads on" wait "$holder"
apply_changes "$work/model"
check "what it read equals the model" same_bytes "$share/seen" "$work/model"
check "the merged image equals the model" same_bytes "$work/merged" "$work/model"
umount_cow "$work/merged"
