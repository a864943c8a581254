# shellcheck shell=bash
# For the tests that kill daemons. Comes after lib.sh.
#
#               KILLS  how often a worker is killed (default 3)

: "${KILLS:=3}"

# The processes of the mount at $1: the worker serves, the supervisor is its parent.
worker_of() { pgrep -f "^$COWFS serve .*$1\$"; }
supervisor_of() { ps -o ppid= -p "$(worker_of "$1")" | tr -d ' '; }

# Kills the worker of the mount at $1 $KILLS times, at random moments. Not more often than the supervisor
# puts up with: five deaths in ten seconds are a worker that can't live.
kill_workers() {
    local n worker
    for ((n = 1; n <= KILLS; n++)); do
        sleep "2.$((RANDOM % 900 + 100))"
        worker=$(worker_of "$1") && kill -KILL "$worker" && wait_until new_worker "$1" "$worker" || return 1
    done
    echo "killed the worker $KILLS times"
}
new_worker() { local now; now=$(worker_of "$1") && [[ $now != "$2" ]]; }
