# shellcheck shell=bash
# tests/huge-files.sh, after lib.sh: a place for sparse files of many TiB.
#
#   place_for BYTES   sets $place: a directory where a sparse file can be that long. $work, if its file system allows
#                     it (ext4 with 4 KiB blocks ends at 16 TiB); else an XFS file system on a loop device there.

place_for() {
    place=$work
    if truncate --size="$1" "$work/huge-probe" 2>/dev/null; then
        rm "$work/huge-probe"
        return
    fi
    need_root
    need mkfs.xfs losetup
    truncate --size=16G "$work/xfs"
    mkfs.xfs -q "$work/xfs"
    attach_loop "$work/xfs"
    place=$work/huge
    mount_fs "$loop" "$place"
    truncate --size="$1" "$place/huge-probe" || skip "because no file here can be $1 bytes long"
    rm "$place/huge-probe"
}
