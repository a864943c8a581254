#!/bin/bash
# A COW that cowfs made is the one that uml_mkcow makes; written through a mount, it is read right by UML.
. "$(dirname "$0")/interop.sh"

for size in $((4 << 20)) 3000001; do
    cow=$work/cow-$size
    make_backing "$size"
    make_changes

    "$COWFS" create "$cow" "$work/backing"
    uml_mkcow "$work/cow-of-uml_mkcow" "$work/backing"
    check "create makes the COW that uml_mkcow makes, for $size bytes" same_bytes "$cow" "$work/cow-of-uml_mkcow"
    rm "$work/cow-of-uml_mkcow"

    mount_cow "$cow" "$work/merged"
    apply_changes "$work/merged"
    apply_changes "$work/model"
    for range in "1000001 1" "700000 5000" "1234567 511" "0 100"; do
        # shellcheck disable=SC2086  # two words
        patch "$work/merged" $range
        # shellcheck disable=SC2086
        patch "$work/model" $range
    done
    check "the merged image equals the model" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"

    check "UML reads the COW" guest "ubd0=$cow" <<<"blockio read /dev/ubda >/host/seen"
    check "what UML reads equals the model" same_bytes "$share/seen" "$work/model"
    check "UML took the backing with no complaint" not grep -iE "mismatch|switching|errno" "$kernel_log"
done

mkdir "$work/directory"
ln -s directory "$work/link"
cp --preserve "$work/backing" "$work/directory"
ln -s backing "$work/directory/other-name"
cd "$work"
for backing in directory/backing ./link//backing link/other-name; do
    rm -f cow cow-of-uml_mkcow
    "$COWFS" create cow "$backing"
    uml_mkcow cow-of-uml_mkcow "$backing"
    check "create makes the COW that uml_mkcow makes, for $backing" same_bytes cow cow-of-uml_mkcow
done
