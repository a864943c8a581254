#!/bin/bash
# cowcore installs as a library that a stranger's program finds with find_package, builds on and uses;
# and the installed command and mount helper work.
. "$(dirname "$0")/../lib.sh"

need_root
need cmake ninja
build=${BUILD:?must name the build directory that is to be installed}
source=$(realpath "$(dirname "$0")/library-user")

check "it installs" cmake --install "$build" --prefix "$work/usr"
check "a program finds the package" cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/usr" \
    -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror"
check "and builds on it" ninja -C "$work/build"
truncate -s 1M "$work/backing"
expect_equal "and reads back what it wrote" \
    "$("$work/build/library-user" "$work/cow" "$work/backing" "a line")" "a line"
check "which the command sees" eval '"$work/usr/bin/cowfs" info "$work/cow" | grep "^in the COW  *1 of"'

# mount(8) looks for helpers in /sbin; called by hand here, in the way it would.
mkdir "$work/mnt"
check "the mount helper mounts" "$work/usr/sbin/mount.fuse.cowfs" "$work/cow" "$work/mnt" -o rw,nosuid,nofail,x-test
at_exit eval '! mountpoint -q "$work/mnt" || umount "$work/mnt"'
expect_equal "with the same content" "$(dd if="$work/mnt/disk" bs=1 skip=1000 count=6 status=none)" "a line"
check "the installed command unmounts" "$work/usr/bin/cowfs" umount "$work/mnt"
