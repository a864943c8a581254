#!/bin/bash
# stress-ng's file system stressors, many at once in one export, find nothing that is not as they left it. (Of the known
# suites for file systems, such as pjdfstest, fsx and xfstests, Debian has none.)
#
# Environment   SECONDS_EACH   how long they run (default 3)
. "$(dirname "$0")/../lib.sh"

need_root
need stress-ng
: "${SECONDS_EACH:=3}"
stressors=(access chmod chown copy-file dentry dir dirdeep fallocate fcntl filename flock fpunch fstat getdent hdd iomix
    link locka lockf lockofd mknod open rename seek symlink sync-file touch utime xattr)

mkdir "$work/host" "$work/export"
at_exit undo_mount_cow "$work/export"
for options in "" passthrough=off; do
    "$COWFS" export -o "allow_other${options:+,$options}" "$work/host" "$work/export"
    arguments=()
    for stressor in "${stressors[@]}"; do arguments+=("--$stressor" 1); done
    check "${#stressors[@]} at once (${options:-passthrough=on})" eval 'cd "$work/export" && \
        timeout 300 stress-ng --temp-path "$work/export" --verify --timeout "$SECONDS_EACH" "${arguments[@]}" && cd /'
    check "  which removed what they made" equal "$(find "$work/host" -mindepth 1)" ""
    check "  and the export ends" "$COWFS" umount "$work/export"
done
