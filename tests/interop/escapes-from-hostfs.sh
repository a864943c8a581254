#!/bin/bash
# Three ways out of UML's hostfs, for a guest's root: they lead to the host's files by themselves, and nowhere from a
# guest that scripts/uml-jailed started on an export. There, the guest can still work in the export.
. "$(dirname "$0")/interop.sh"

need_root
need bwrap
mkdir "$work/host" "$work/host/dir" "$work/outside" "$work/export"
echo secret >"$work/outside/secret"

# What the guest does: $root is what it may see.
escapes() {
    cat <<EOT
mkdir /a /b /m
mount -t hostfs none /a -o $1 || exit 90
mount -t hostfs none /b -o $1 || exit 90
echo "1 \$(mount -t hostfs none /m -o $1/../outside 2>&1 && cat /m/secret; umount /m 2>/dev/null)"
ln -s $work/outside /a/link
echo "2 \$(mount -t hostfs none /m -o $1/link 2>&1 && cat /m/secret; umount /m 2>/dev/null)"
cd /a/dir
mv /b/dir /b/moved && ln -s ../outside /b/dir
echo "3 \$(cat secret 2>&1)"
cd /
rm /b/dir /b/link && mv /b/moved /b/dir
echo from the guest >/b/dir/file && cat /b/dir/file
EOT
}

by_itself=$(escapes "$work/host" | guest)
for way in 1 2 3; do
    check "hostfs by itself: way $way leads out" grep -qx "$way secret" <<<"$by_itself"
done
rm "$work/host/dir/file"

"$COWFS" export "$work/host" "$work/export"
at_exit "$COWFS" umount "$work/export"
jailed=$(escapes "$work/export" | guest_in_jail "$work/export")
for way in 1 2 3; do
    check "in the jail: way $way leads nowhere" not grep -qx "$way secret" <<<"$jailed"
    check "  it was tried" grep -q "^$way " <<<"$jailed"
done
check "the guest works in the export" grep -qx "from the guest" <<<"$jailed"
expect_equal "the host has what it wrote" "$(cat "$work/host/dir/file")" "from the guest"
