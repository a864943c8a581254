#!/bin/bash
# One sqlite database with a write-ahead log, written at once through two exports of its directory and on the host: its
# locks and its shared memory (a file that all of them map) hold across all three. That takes kernel passthrough.
#
# Environment   ROWS   how many each of them writes (default 500)
. "$(dirname "$0")/../lib.sh"

need_root
need sqlite3
: "${ROWS:=500}"

mkdir "$work"/{host,one,two}
for point in one two; do
    at_exit undo_mount_cow "$work/$point"
    explained=$("$COWFS" export --explain -o allow_other "$work/host" "$work/$point")
done
grep -qi 'passthrough.*\(yes\|on\)' <<<"$explained" || skip "because there is no kernel passthrough: $explained"

query() { sqlite3 -cmd ".timeout 60000" "$1/database" "${2:-}"; }
expect_equal "there is a database with a write-ahead log" "$(query "$work/one" "pragma journal_mode=wal;
    create table t (place text, n int, filling blob, primary key (place, n)); create table total (n int);
    insert into total values (0);" | head -n 1)" wal

# Each transaction reads what the others have written, and adds to it.
write_rows() {
    local i
    for ((i = 1; i <= ROWS; i++)); do
        echo "begin immediate; insert into t values ('$1', $i, randomblob(900 + $i));"
        echo "update total set n = n + 1; commit;"
    done | sqlite3 -bail -cmd ".timeout 60000" -cmd "pragma synchronous=normal" "$work/$1/database" >"$work/$1.out" 2>&1
}
writers=()
for place in one two host; do
    write_rows "$place" &
    writers+=($!)
    at_exit end_background $!
done
# Meanwhile, from each place: never less than before, and never rows without their total.
before=0
for place in one two host one two host; do
    read -r rows total < <(query "$work/$place" "select (select count(*) from t) || ' ' || (select n from total);")
    check "read by $place meanwhile: $rows rows" test "$rows" = "$total" -a "$rows" -ge "$before"
    before=$rows
done
place=0
for writer in "${writers[@]}"; do
    check "a writer has ended well" eval "wait $writer || { cat $work/*.out; false; }"
done
for place in one two host; do
    expect_equal "seen by $place, all rows are there" "$(query "$work/$place" "select count(*) from t;")" $((3 * ROWS))
    expect_equal "  each transaction saw the others" "$(query "$work/$place" "select n from total;")" $((3 * ROWS))
    expect_equal "  the database is sound" "$(query "$work/$place" "pragma integrity_check;")" ok
done
for point in one two; do check "$point ends" "$COWFS" umount "$work/$point"; done
expect_equal "on the host it is sound" "$(query "$work/host" "pragma integrity_check; select count(*) from t;" | xargs)" \
    "ok $((3 * ROWS))"
