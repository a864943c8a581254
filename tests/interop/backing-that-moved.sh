#!/bin/bash
# cowfs points a COW of UML's at its moved backing, and UML then takes it with no complaint; a backing that was
# changed is refused, and the COW left alone.
. "$(dirname "$0")/interop.sh"

make_backing 3000001
make_changes
check "UML makes a COW and writes to it" guest "ubd0=$work/cow,$work/backing" "ubd1r=$work/new" <<<"$write_changes"
apply_changes "$work/model"
mkdir "$work/elsewhere"
mv "$work/backing" "$work/elsewhere/moved"
: >"$work/merged"

refuses() {
    local reason=$1 checksum
    shift
    checksum=$(sha256sum <"$work/cow")
    check "$reason: refused" fails_with 3 "$COWFS" mount "$@" "$work/merged"
    check "$reason: one line says what and where" says "^cowfs: [^:]+: .+; .+"
    expect_equal "$reason: the message is one line" "$(wc -l <<<"$stderr")" 1
    expect_equal "$reason: the COW is unchanged" "$(sha256sum <"$work/cow")" "$checksum"
    check "$reason: nothing is mounted" not is_mounted "$work/merged"
}
refuses "a missing backing" "$work/cow"

# Each copy keeps the moved backing's mtime, and then differs in one thing.
cp --preserve "$work/elsewhere/moved" "$work/touched"
touch --date="@$(($(stat -c %Y "$work/touched") + 1))" "$work/touched"
refuses "a given backing of another mtime" "$work/cow,$work/touched"

cp --preserve "$work/elsewhere/moved" "$work/grown"
truncate --size=+512 "$work/grown"
touch --reference="$work/elsewhere/moved" "$work/grown"
refuses "a given backing of another size" "$work/cow,$work/grown"

mount_cow "$work/cow,$work/elsewhere/moved" "$work/merged" 2>"$work/relocation"
expect_equal "relocation says one line" "$(wc -l <"$work/relocation")" 1
check "that line names the new backing" grep "$work/elsewhere/moved" "$work/relocation"
check "the merged image equals the model" same_bytes "$work/merged" "$work/model"
umount_cow "$work/merged"

check "UML takes the relocated COW" guest "ubd0=$work/cow" <<<"blockio read /dev/ubda >/host/seen"
check "what UML reads equals the model" same_bytes "$share/seen" "$work/model"
check "UML took the backing with no complaint" not grep -iE "mismatch|switching|errno" "$kernel_log"

touch --date="@1700000000" "$work/elsewhere/moved"
refuses "the COW's own backing with a changed mtime" "$work/cow"
