# shellcheck shell=bash
# tests/lib.sh: what every shell test of cowfs starts with.
#
#     #!/bin/bash
#     # One line: what this test shows.
#     . "$(dirname "$0")/../lib.sh"
#
# Environment   COWFS    the cowfs program under test (required)
#               TMPDIR   where the private directory goes (default /tmp)
#               SEED     seed of RANDOM, so that a failure can be repeated (default 1)
#
# Sets          $work    a private directory with an absolute name, removed when the test ends
#               $stderr  what the last command under fails_with wrote to its standard error
#
# Checking      check "what it shows" COMMAND...          the command succeeds
#               check "..." not COMMAND...                it fails
#               check "..." fails_with STATUS COMMAND...  it fails with this status; sets $stderr
#               check "..." says REGEX                    $stderr matches (grep -E)
#               check "..." same_bytes FILE FILE          same content; else says where it differs
#               expect_equal "what it shows" ACTUAL EXPECTED
#               skip "why"                                ends the test with status 77
#               need PROGRAM... / need_root               skips when that is missing
# A failed check prints the command and its output, and ends the test with status 1. Any other command
# that fails does so as well (set -e). Only mind that bash does not apply set -e inside a function
# called under check: join the commands of such a function with &&.
#
# Undone by itself when the test ends, also when it fails or is interrupted (last made, first undone):
#               mount_cow [OPTIONS] COW[,BACKING] MOUNTPOINT   makes a missing MOUNTPOINT: an empty file
#               attach_loop [LOSETUP-OPTIONS] FILE             sets $loop
#               mount_fs [MOUNT-OPTIONS] DEVICE DIR            makes a missing DIR
#               background COMMAND...                          sets $background (its pid)
#               at_exit COMMAND...                             anything else
# By hand       umount_cow MOUNTPOINT, detach_loop DEVICE, umount_fs DIR, end_background PID
# Also          random_file FILE BYTES; wait_until COMMAND... (polls; gives up after a minute)
#
# A test touches only what it made itself: mounts and loop devices go by name, processes by pid.

set -eEuo pipefail
PATH=$PATH:/usr/sbin:/sbin # losetup and e2fsck, also for a user who lacks these

fail() { echo "FAILED  $*"; exit 1; }
skip() { echo "SKIPPED $*"; exit 77; }

[[ -n ${COWFS:-} ]] || fail "COWFS must name the cowfs program, e.g. COWFS=build/gcc/cli/cowfs $0"
[[ -f $COWFS && -x $COWFS ]] || fail "COWFS=$COWFS is not a program"
COWFS=$(realpath "$COWFS")

work=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/cowfs-$(basename "$0").XXXXXX")")
stderr=
loop=
background=
RANDOM=${SEED:=1}

# --- the end of the test ---

cleanups=()

at_exit() {
    local quoted
    printf -v quoted '%q ' "$@"
    cleanups+=("$quoted")
}

run_cleanups() {
    local status=$? i
    trap '' HUP INT TERM
    set +e
    for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do
        if ! eval "${cleanups[i]}"; then
            echo "FAILED  to clean up: ${cleanups[i]}"
            ((status != 0)) || status=1
        fi
    done
    rm -rf --one-file-system "$work" || status=1
    ((status == 0 || status == 77)) || echo "FAILED  with status $status, SEED=$SEED"
    exit "$status"
}
trap run_cleanups EXIT
trap 'echo "FAILED  ${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND" >&2' ERR
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- checks ---

check() {
    local shows=$1 status
    shift
    if "$@" >"$work/.check" 2>&1; then
        echo "ok      $shows"
    else
        status=$?
        echo "FAILED  $shows"
        echo "        status $status: $*"
        sed 's/^/        | /' "$work/.check"
        exit 1
    fi
}

expect_equal() {
    check "$1" equal "$2" "$3"
}

equal() {
    [[ $1 == "$2" ]] || { printf 'is:       %s\nexpected: %s\n' "$1" "$2" && return 1; }
}

not() {
    ! "$@"
}

fails_with() {
    local expected=$1 status=0
    shift
    "$@" >"$work/.stdout" 2>"$work/.stderr" || status=$?
    stderr=$(<"$work/.stderr")
    [[ $status == "$expected" ]] && return
    echo "exit status $status, not $expected"
    cat "$work/.stdout" "$work/.stderr"
    return 1
}

says() {
    grep -qE -- "$1" <<<"$stderr" || { printf 'no match for: %s\n%s\n' "$1" "$stderr" && return 1; }
}

same_bytes() {
    local where
    where=$(cmp -- "$1" "$2" 2>&1) && return
    echo "$where"
    [[ $where =~ byte\ ([0-9]+), ]] || return 1
    echo "(first in sector $(((BASH_REMATCH[1] - 1) / 512)); $(wc -c <"$1") and $(wc -c <"$2") bytes long)"
    return 1
}

need() {
    local program
    for program; do
        type -P "$program" >/dev/null || skip "because $program is not installed (see scripts/setup)"
    done
}

need_root() {
    ((EUID == 0)) || skip "because it must be run as root"
}

# --- things that are undone at the end ---

# Asks the kernel's table, since even stat fails on a mount whose daemon is dead.
is_mounted() {
    awk -v point="$1" '$5 == point { found = 1 } END { exit !found }' /proc/self/mountinfo
}

mount_cow() {
    local point=${!#}
    [[ -e $point ]] || : >"$point"
    point=$(realpath "$point")
    at_exit undo_mount_cow "$point"
    "$COWFS" mount "$@"
}

umount_cow() {
    "$COWFS" umount "$1"
}

undo_mount_cow() {
    is_mounted "$1" || return 0
    umount_cow "$1" || true
    ! is_mounted "$1" || { fusermount3 -uz "$1" && false; }
}

attach_loop() {
    loop=$(losetup --find --show "$@")
    at_exit undo_attach_loop "$loop" "$(realpath "${!#}")"
}

detach_loop() {
    losetup --detach "$1" && wait_until not losetup "$1"
}

# The device may have been detached by the test, and attached again by somebody else.
undo_attach_loop() {
    [[ $(losetup --noheadings --output BACK-FILE "$1" 2>/dev/null) != "$2" ]] || detach_loop "$1"
}

mount_fs() {
    local dir=${!#}
    mkdir -p "$dir"
    dir=$(realpath "$dir")
    at_exit undo_mount_fs "$dir"
    mount "$@"
}

umount_fs() {
    umount "$1"
}

undo_mount_fs() {
    ! is_mounted "$1" || umount "$1" || { umount --lazy "$1" && false; }
}

# In a process group of its own, so that a shell function's commands are ended with it.
background() {
    set -m
    "$@" <&0 &
    set +m
    background=$!
    at_exit end_background "$background"
}

# Only a job of this shell is signalled: once waited for, its pid may be somebody else's.
end_background() {
    grep -qx "$1" <<<"$(jobs -p)" || return 0
    kill -- "-$1" 2>/dev/null || true
    wait_until not kill -0 -- "-$1" || kill -KILL -- "-$1" || true
    wait "$1" || true
}

# --- small help ---

random_file() {
    head -c "$2" /dev/urandom >"$1"
}

wait_until() {
    local i
    for ((i = 0; i < 600; i++)); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    echo "still not so after a minute: $*"
    return 1
}
