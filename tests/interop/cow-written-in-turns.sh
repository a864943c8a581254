#!/bin/bash
# UML and cowfs write to one COW in turns, and each sees all that was written before.
. "$(dirname "$0")/interop.sh"

make_backing 3000001
"$COWFS" create "$work/cow" "$work/backing"

for round in 1 2 3 4; do
    make_changes 30
    check "round $round: UML writes, then reads" guest "ubd0=$work/cow" "ubd1r=$work/new" <<EOT
$write_changes && blockio read /dev/ubda >/host/seen
EOT
    apply_changes "$work/model"
    check "round $round: UML sees what both wrote" same_bytes "$share/seen" "$work/model"

    make_changes 30
    mount_cow "$work/cow" "$work/merged"
    check "round $round: cowfs sees what both wrote" same_bytes "$work/merged" "$work/model"
    apply_changes "$work/merged"
    apply_changes "$work/model"
    check "round $round: cowfs sees its own writes" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"
done

check "UML reads it at the end" guest "ubd0=$work/cow" <<<"blockio read /dev/ubda >/host/seen"
check "what UML reads at the end equals the model" same_bytes "$share/seen" "$work/model"
