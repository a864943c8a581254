#!/bin/bash
# Every recipe of the README runs as it is written, one after the other, and does what it says.
. "$(dirname "$0")/../lib.sh"

need_root
need linux.uml debugfs setarch
readme=$(realpath "$(dirname "$0")/../../README.md")
guest=${UML_GUEST:?must name the directory that tests/interop/build-guest made}

# A recipe that fails half-way leaves mounts, and a loop device between two of them.
unmount_below() {
    findmnt -rno TARGET | { grep "^$1/" || true; } | tac | while read -r target; do umount "$target"; done
}
loops_below() {
    losetup --list --noheadings --output NAME,BACK-FILE | awk -v dir="$1/" 'index($2, dir) == 1 { print $1 }'
}
leave_nothing() {
    unmount_below "$work" 2>/dev/null
    loops_below "$work" | xargs --no-run-if-empty losetup --detach
    unmount_below "$work"
}
at_exit leave_nothing

# The backing: a root file system whose first process leaves a mark and powers off.
cat >"$work/init" <<'INIT'
#!/bin/sh
/bin/busybox date >/booted
/bin/busybox sync
/bin/busybox mount -t proc none /proc
/bin/busybox mount -o remount,ro /
/bin/busybox poweroff -f
INIT
cp "$guest/root.ext4" "$work/root.img"
debugfs -w -f - "$work/root.img" >/dev/null 2>&1 <<COMMANDS
write $work/init sbin/init
set_inode_field sbin/init mode 0100755
COMMANDS
chmod 0444 "$work/root.img"
checksum=$(sha256sum <"$work/root.img")

# The real programs, with what they need on a test machine (tests/interop/README.md).
mkdir "$work/bin"
ln -s "$COWFS" "$work/bin/cowfs"
cat >"$work/bin/linux.uml" <<WRAPPER
#!/bin/bash
exec env LD_PRELOAD=$guest/fp_regs_shim.so setarch -R $(type -P linux.uml) con=null con0=null,fd:1 uml_dir=$work "\$@" </dev/null
WRAPPER
chmod +x "$work/bin/linux.uml"

awk -v dir="$work" '/^```sh$/ { inside = 1; n++; next } /^```$/ { inside = 0 }
                    inside { print > (dir "/recipe-" n) }' "$readme"
expect_equal "the README has six recipes" "$(ls "$work"/recipe-* | wc -l)" 6

recipe() {
    (cd "$work" && PATH=$work/bin:$PATH timeout 120 bash -euo pipefail "recipe-$1" >"output-$1" 2>&1) ||
        { cat "$work/output-$1"; return 1; }
}
check "a guest" recipe 1
expect_equal "the guest booted from the merged image, and changed it" \
    "$("$COWFS" info --json "$work/guest1.cow" | jq '.sectors_in_cow > 0')" true
check "a loop device" recipe 2
check "a moved backing" recipe 3
expect_equal "the COW names the new place" \
    "$("$COWFS" info --json "$work/guest1.cow" | jq -r .backing.resolved)" "$work/images/root.img"
before=$(sha256sum <"$work/guest1.cow")
check "a read-only look" recipe 4
expect_equal "it shows what the loop device wrote" "$(cat "$work/output-4")" hello
expect_equal "the COW is unchanged by it" "$(sha256sum <"$work/guest1.cow")" "$before"
check "unmounting" recipe 5
check "the copy equals the COW" same_bytes "$work/guest1.cow" "$work/backup.cow"
check "a directory for a guest" recipe 6
expect_equal "what was made in the export is nobody's" "$(stat -c %U "$work/shared/from-the-guest")" nobody
expect_equal "and has its content" "$(cat "$work/shared/from-the-guest")" hello
expect_equal "the backing is unchanged" "$(sha256sum <"$work/images/root.img")" "$checksum"
expect_equal "no loop device is left" "$(loops_below "$work")" ""
expect_equal "nothing is left mounted" "$(findmnt -rno TARGET | grep -c "^$work/" || true)" 0
