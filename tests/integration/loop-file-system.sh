#!/bin/bash
# loop-file-system.sh ext4|xfs|btrfs buffered|direct
# A file system made, filled, trimmed and checked on a loop device over a merged image, whose backing is sparse: files
# survive cowfs umount, fsck is clean, the COW stays as small as a plain image's file, and trimming gives space back.
. "$(dirname "$0")/../lib.sh"

fs=${1:-} mode=${2:-}
case $mode in
buffered) direct_io=off ;;
direct) direct_io=on ;;
*) fail "usage: $0 ext4|xfs|btrfs buffered|direct" ;;
esac
case $fs in
ext4) make=(mkfs.ext4 -q) is_sound=(e2fsck -fn) programs=(mkfs.ext4 e2fsck) ;;
xfs) make=(mkfs.xfs -q) is_sound=(xfs_repair -n) programs=(mkfs.xfs xfs_repair) ;;
btrfs) make=(mkfs.btrfs -q) is_sound=(btrfs check --readonly) programs=(mkfs.btrfs btrfs) ;;
*) fail "usage: $0 ext4|xfs|btrfs buffered|direct" ;;
esac
need_root
need losetup fstrim jq "${programs[@]}"
tree=/usr/include/linux # some hundred real files of all sizes; whoever built cowfs has them
[[ -d $tree ]] || skip "because there is no $tree to copy"

disk=$work/disk
blocks_of() { stat -c %b "$1"; } # of 512 bytes
sectors_in_cow() { "$COWFS" info --json "$work/cow" | jq .sectors_in_cow; }

attach() {
    attach_loop --direct-io="$direct_io" "$work/merged"
    expect_equal "the loop device is $mode" "$(losetup --noheadings --output DIO "$loop" | xargs)" \
        "$([[ $mode == direct ]] && echo 1 || echo 0)"
}

truncate --size=384M "$work/backing"
chmod 0444 "$work/backing"
backing_before=$(stat -c '%s %b %y %z' "$work/backing")
"$COWFS" create "$work/cow" "$work/backing"
mount_cow "$work/cow" "$work/merged"
attach

# mkfs discards the whole device first. A discard that marked what is a hole anyway would show in the number of
# sectors, one that wrote zeros would show in the blocks.
check "mkfs.$fs makes a file system" "${make[@]}" "$loop"
sync "$work/merged"
check "for which the COW takes less than 8 MiB: $(blocks_of "$work/cow") blocks" \
    test "$(blocks_of "$work/cow")" -lt $((8 * 2048))
check "and holds less than 16 MiB: $(sectors_in_cow) sectors" test "$(sectors_in_cow)" -lt $((16 * 2048))

# --- fill and trim ---
mount_fs "$loop" "$disk"
cp -a "$tree" "$disk/tree"
mkdir "$disk/random" "$disk/removed"
for i in {1..40}; do random_file "$disk/random/$i" $((i * 40961)); done
for i in {1..8}; do random_file "$disk/removed/$i" $((8 << 20)); done
(cd "$disk" && find tree random -type f -exec sha256sum {} +) >"$work/sums"
sync --file-system "$disk"
full=$(blocks_of "$work/cow")
rm -r "$disk/removed"
umount_fs "$disk" # until then xfs and btrfs may hold on to what was removed
mount_fs "$loop" "$disk"
check "fstrim runs" fstrim "$disk"
gave_back_60_mib() { ((full - $(blocks_of "$work/cow") >= 60 * 2048)); }
# xfs goes on discarding after fstrim has ended.
check "the COW gives back nearly all of the 64 MiB removed" wait_until gave_back_60_mib
umount_fs "$disk"
detach_loop "$loop"
umount_cow "$work/merged"

# --- once more, from what is on disk ---
mount_cow "$work/cow" "$work/merged"
attach
mount_fs "$loop" "$disk"
expect_equal "all files are there after cowfs umount and mount" \
    "$(find "$disk/tree" "$disk/random" -type f | wc -l)" "$(wc -l <"$work/sums")"
check "with their content" env --chdir="$disk" sha256sum --check --quiet "$work/sums"
check "which is that of the tree they are from" diff --recursive --no-dereference "$tree" "$disk/tree"
rm -r "$disk/random"
umount_fs "$disk"
check "fsck finds nothing wrong on the loop device" "${is_sound[@]}" "$loop"
detach_loop "$loop"
check "the merged image reads the same, plain and O_DIRECT" \
    cmp "$work/merged" <(dd if="$work/merged" iflag=direct bs=1M status=none)
umount_cow "$work/merged"
expect_equal "the backing is as it was, and as empty" "$(stat -c '%s %b %y %z' "$work/backing")" "$backing_before"
