#!/bin/bash
# Two COWs of one golden ext4 image, full of files, on loop devices at the same time: each sees only its own changes.
# Discarding what only the backing holds reads as zeros and costs no space. The golden image stays as it was.
. "$(dirname "$0")/../lib.sh"

need_root
need losetup fstrim blkdiscard mke2fs e2fsck jq
blocks_of() { stat -c %b "$1"; } # of 512 bytes
info() { "$COWFS" info --json "$1" | jq "$2"; }
attach() { # COW losetup-options...: mounts, attaches, mounts; everything is named after the COW
    mount_cow "$work/$1.cow" "$work/$1.merged"
    attach_loop "${@:2}" "$work/$1.merged"
    declare -g "$1=$loop"
    mount_fs "$loop" "$work/$1"
}
detach() {
    umount_fs "$work/$1"
    detach_loop "${!1}"
    umount_cow "$work/$1.merged"
}

size=112 # MiB
mkdir -p "$work/files"/{kept,removed}
for i in {1..16}; do random_file "$work/files/kept/$i" $((i * 200001)); done
for i in {1..8}; do random_file "$work/files/removed/$i" $((8 << 20)); done
# Not much room beyond what is in use, so that nearly every discard meets data of the backing.
truncate --size="${size}M" "$work/golden"
mke2fs -q -t ext4 -m 0 -d "$work/files" "$work/golden"
chmod 0444 "$work/golden"
golden=$(sha256sum <"$work/golden")
(cd "$work/files" && find . -type f -exec sha256sum {} +) >"$work/sums"
for name in alpha beta; do "$COWFS" create "$work/$name.cow" "$work/golden"; done

attach alpha --direct-io=off
attach beta --direct-io=on
for name in alpha beta; do
    check "$name shows the files of the golden image" env --chdir="$work/$name" sha256sum --check --quiet "$work/sums"
    random_file "$work/$name/new" 3000000
    sha256sum <"$work/$name/new" >"$work/$name.sum"
    rm "$work/$name/kept/1"
done
mv "$work/alpha/kept/2" "$work/alpha/renamed"
sync --file-system "$work/alpha"
before=$(blocks_of "$work/alpha.cow")
rm -r "$work/alpha/removed"
sync --file-system "$work/alpha"
check "fstrim runs" fstrim "$work/alpha"
sync --file-system "$work/alpha"
check "the sectors of 64 MiB that were only in the backing are in alpha's COW now" \
    test "$(info "$work/alpha.cow" .sectors_in_cow)" -ge $((64 * 2048))
after=$(blocks_of "$work/alpha.cow")
check "and take no space: $before blocks before, $after after" test $((after - before)) -lt 2048
detach alpha
detach beta

attach alpha --direct-io=on
attach beta --direct-io=off
expect_equal "alpha has what it made and not what it removed" \
    "$(cd "$work/alpha" && echo * kept/?)" "kept lost+found new renamed kept/3 kept/4 kept/5 kept/6 kept/7 kept/8 kept/9"
expect_equal "beta has what it made, and what only alpha removed" \
    "$(cd "$work/beta" && echo * kept/?)" "kept lost+found new removed \
kept/2 kept/3 kept/4 kept/5 kept/6 kept/7 kept/8 kept/9"
declare -A untouched=([alpha]='kept/([3-9]|1.)$' [beta]='(kept/([2-9]|1.)|removed/.)$')
for name in alpha beta; do
    expect_equal "$name has its own new data" "$(sha256sum <"$work/$name/new")" "$(<"$work/$name.sum")"
    check "what $name did not touch has its content" \
        env --chdir="$work/$name" sha256sum --check --quiet <(grep -E "${untouched[$name]}" "$work/sums")
done
umount_fs "$work/alpha"
umount_fs "$work/beta"
for name in alpha beta; do check "e2fsck finds nothing wrong in $name" e2fsck -fn "${!name}"; done

# --- discards at chosen places, then of everything ---
cp --sparse=never "$work/beta.merged" "$work/model"
before=$(blocks_of "$work/beta.cow")
for range in 0:4096 1048576:8388608 33558528:12288 $(((size << 20) - 4096)):4096; do
    blkdiscard --offset "${range%:*}" --length "${range#*:}" "${beta:?}"
    dd if=/dev/zero of="$work/model" bs=64K seek="${range%:*}" count="${range#*:}" conv=notrunc status=none \
        iflag=count_bytes oflag=seek_bytes
done
check "discarded ranges read as zeros, and all else as before" same_bytes "$work/beta.merged" "$work/model"
check "the loop device shows the same" same_bytes "$beta" "$work/model"
blkdiscard --force "$beta"
check "after a discard of the whole device it reads as zeros" \
    cmp --bytes=$((size << 20)) "$work/beta.merged" /dev/zero
sync "$work/beta.merged" # until then the bits are in memory
check "all sectors that the golden image has data for are in the COW then" \
    test "$(info "$work/beta.cow" .sectors_in_cow)" -ge $(($(blocks_of "$work/golden") - 64))
check "which takes hardly any space: $(blocks_of "$work/beta.cow") blocks, $before before" \
    test "$(blocks_of "$work/beta.cow")" -lt 256
for name in alpha beta; do
    detach_loop "${!name}"
    umount_cow "$work/$name.merged"
done
expect_equal "the golden image is as it was" "$(sha256sum <"$work/golden")" "$golden"
