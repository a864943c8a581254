#!/bin/bash
# The processes of an export are killed while it is written to: what was synced is on the host, nothing else there is
# changed, cowfs umount works, no process and no mount is left, and the directory can be exported again.
#
# Environment   KILLS   how often for each kind (default 2)
. "$(dirname "$0")/../lib.sh"

need_root
need tar
: "${KILLS:=2}"
source=/usr/include/linux
[[ -d $source ]] || skip "because there is no $source to copy"

mkdir "$work/host" "$work/export"
cp -r "$source" "$work/host/old"
tar cf "$work/tree.tar" -C "$source" .
at_exit undo_mount_cow "$work/export"
contents() { (cd "$1" && find . -type f -exec sha256sum {} + | LC_ALL=C sort); }
contents "$work/host/old" >"$work/old"

broker=
worker=
begin_export() {
    background "$COWFS" export -f -o "allow_other,passthrough=$1" "$work/host" "$work/export"
    broker=$background
    wait_until is_mounted "$work/export"
    stat "$work/export/" >/dev/null # answered by the worker
    # The last one: the process that it was before it went into the jail may not have ended yet.
    worker=$(grep -oE '[0-9]+' "/proc/$broker/task/$broker/children" | tail -n 1)
    [[ -n $worker ]] || fail "the export has no worker"
}

# Lines that are in the file for good, by what fsync says; their count goes to a file outside of the export.
write_and_sync() {
    local i=0
    exec >>"$work/export/journal"
    while echo "line $((i + 1)) $(printf '%0.sx' {1..200})" && sync -d "$work/export/journal"; do
        i=$((i + 1))
        echo "$i" >"$work/synced.new" && mv "$work/synced.new" "$work/synced"
    done
}
unpack() { while tar xf "$work/tree.tar" -C "$work/export/new" && rm -r "$work/export/new/"*; do :; done; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

# Its words are the names of the variables that hold what is killed.
kill_export() {
    local victim lines
    rm -rf "$work/host/journal" "$work/host/new" "$work/synced"
    mkdir "$work/host/new"
    begin_export "$1"
    shift
    background write_and_sync 2>"$work/writer"
    local writer=$background
    background unpack 2>"$work/tar"
    local unpacker=$background
    wait_until test -e "$work/synced"
    sleep "0.$((RANDOM % 900 + 100))"
    for victim; do kill -KILL "${!victim}"; done
    check "killing $*: both are gone" eval 'wait_until is_gone "$worker" && wait_until is_gone "$broker"'
    end_background "$writer"
    end_background "$unpacker"
    lines=$(<"$work/synced")
    check "  no file of the mount can be read any more" not cat "$work/export/journal"
    # A broker that is left unmounts by itself.
    if [[ $* == worker ]]; then
        check "  the mount is gone" wait_until not is_mounted "$work/export"
    else
        check "  cowfs umount works" timeout 60 "$COWFS" umount "$work/export"
    fi
    check "  nothing is mounted" not is_mounted "$work/export"
    check "  what was synced is on the host: $lines lines" \
        eval 'for ((i = 1; i <= lines; i++)); do echo "line $i"; done | cmp - <(head -n "$lines" "$work/host/journal" | cut -d" " -f1,2)'
    check "  what was there is as it was" diff <(contents "$work/host/old") "$work/old"
}

# In its first moments an export's processes are not bound to each other yet.
nobody_serves() { ! pgrep -f "^cowfs serve-export .*$work/host\$"; }
kill_at_the_start() {
    local n half_way=0
    for ((n = 0; n < 10 * KILLS; n++)); do
        background "$COWFS" export -f -o allow_other "$work/host" "$work/export"
        sleep "0.$(printf %04d $((RANDOM % 400)))"
        kill -KILL "$background"
        wait "$background" 2>/dev/null || true
        wait_until nobody_serves || return 1
        ! is_mounted "$work/export" || { ((++half_way)) && timeout 60 "$COWFS" umount "$work/export"; } || return 1
    done
    echo "        $half_way of them when it was mounted"
}
check "a broker that is killed at once leaves no process" kill_at_the_start

for ((n = 1; n <= KILLS; n++)); do
    kill_export on worker
    kill_export on broker
    kill_export off worker broker
done
begin_export on
check "then it can be exported again" diff <(contents "$work/export/old") "$work/old"
check "  and written" eval 'echo new >"$work/export/file" && equal "$(cat "$work/host/file")" new'
check "  and it ends" "$COWFS" umount "$work/export"
