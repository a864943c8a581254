#!/bin/bash
# uml_moo merges a COW that cowfs wrote into what the merged image showed. (Only for sizes that are a multiple of
# 512: of any other, uml_moo loses the last sector.)
. "$(dirname "$0")/interop.sh"

make_backing $(((4 << 20) + 512))
"$COWFS" create "$work/cow" "$work/backing"
make_changes
mount_cow "$work/cow" "$work/merged"
apply_changes "$work/merged"
apply_changes "$work/model"
cp "$work/merged" "$work/copy-of-merged"
umount_cow "$work/merged"
check "the merged image equals the model" same_bytes "$work/copy-of-merged" "$work/model"

check "uml_moo merges into a new file" uml_moo "$work/cow" "$work/new-backing"
check "the new file equals the merged image" same_bytes "$work/new-backing" "$work/copy-of-merged"

chmod 0644 "$work/backing"
check "uml_moo -d merges into the backing" uml_moo -d "$work/cow"
check "the backing equals the merged image" same_bytes "$work/backing" "$work/copy-of-merged"
