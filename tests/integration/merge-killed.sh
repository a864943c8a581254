#!/bin/bash
# merge-killed.sh [ROUNDS]: a merge killed at random moments leaves nothing; one into the backing loses nothing, and is
# completed by the same command. Meanwhile the COW and its sibling can't be used otherwise. Ctrl-C ends both in order.
. "$(dirname "$0")/../lib.sh"

rounds=${1:-12}
need fio
cd "$work"
random_file golden $((96 << 20))
: >point
fill() { # COW SEED
    "$COWFS" create "$1" golden
    mount_cow "$1" point
    fio --name=fill --filename=point --allow_file_create=0 --fallocate=none --rw=randwrite --bs=8k --size=96m \
        --io_size=48m --randseed="$2" --ioengine=psync --end_fsync=1 >/dev/null
    umount_cow point
}
fill cow.golden 1
fill sibling.golden 2
"$COWFS" merge --quiet cow.golden model
"$COWFS" merge --quiet sibling.golden sibling-model

set_up() {
    cp -p --sparse=always golden base
    # The same header, for a copy of the backing.
    local name
    for name in cow sibling; do
        cp --sparse=always "$name.golden" "$name"
        mount_cow "$name,base" point 2>/dev/null
        umount_cow point
    done
}
# Starts the command, and kills it so many microseconds later; comes back when it has ended, not before.
kill_after() { # SIGNAL MICROSECONDS COMMAND...
    local status=0 # of the command, or 124 or 137
    # The shell tells of what was killed.
    timeout --foreground --signal="$1" "$(($2 / 1000000)).$(printf %06d $(($2 % 1000000)))" "${@:3}" >"$work/.out" 2>&1 ||
        status=$?
    [[ $status != 0 ]]
}
# Starts the command, and kills it so many microseconds after it has begun to write the journal of base.
kill_in_the_middle() { # MICROSECONDS COMMAND...
    local command status=0
    "${@:2}" >"$work/.out" 2>&1 &
    command=$!
    until [[ -s base.cowfs-merge ]] || ! kill -0 "$command" 2>/dev/null; do :; done
    sleep "$(($1 / 1000000)).$(printf %06d $(($1 % 1000000)))"
    kill -KILL "$command" 2>/dev/null || true
    wait "$command" 2>/dev/null || status=$?
    [[ $status != 0 ]]
}
# Sets $took, anew each time: how quick the machine is changes.
merge_to_out() {
    local begin=${EPOCHREALTIME/./}
    "$COWFS" merge --quiet --force cow out && took=$((${EPOCHREALTIME/./} - begin))
}

set_up
merge_to_out
names=$(ls -A)
killed=0
for ((i = 0; i < rounds || (killed == 0 && i < 10 * rounds); i++)); do
    rm -f out
    if kill_after KILL $((RANDOM * took / 32768)) "$COWFS" merge --quiet cow out; then
        ((++killed))
        # It may have come to give the file its name, and then be about to sync the directory.
        if [[ -e out ]]; then check "round $i: the output is whole" same_bytes out model; fi
        expect_equal "round $i: a killed merge leaves nothing else" "$(ls -A | grep -vx -e out -e .out -e .check | xargs)" \
            "$(grep -vx -e out -e .out -e .check <<<"$names" | xargs)"
    fi
    check "round $i: it can be done again" merge_to_out
    check "  with the right result" same_bytes out model
done
check "some were killed" test "$killed" -gt 0

killed=0 half=0
in_place=("$COWFS" merge --in-place --yes cow --siblings sibling)
for ((i = 0; i < rounds || (half == 0 && i < 10 * rounds); i++)); do
    set_up
    times=$((1 + RANDOM % 3)) # kills in a row
    for ((k = 0; k < times; k++)); do
        if ((i % 2)); then
            kill_after KILL $((1000 + RANDOM * took / 16384)) "${in_place[@]}" || break
        else
            kill_in_the_middle $((RANDOM * took / 65536)) "${in_place[@]}" || break
        fi
        ((++killed))
        if [[ -e base.cowfs-merge && $(stat -c %s base.cowfs-merge) != 0 ]] && ! cmp -s base golden; then
            ((++half))
            if [[ $("$COWFS" info --json cow | jq .backing.state) != '"ok"' ]]; then
                check "round $i: half merged, the COW is refused" fails_with 3 "$COWFS" merge cow never
                check "  with what to do" says "a merge of $work/cow .* was interrupted; complete it: .cowfs merge --in-place"
            fi
        fi
    done
    if [[ $("$COWFS" info --json cow | jq -r '[.sectors_in_cow, .backing.state] | join(" ")') != "0 ok" ]]; then
        check "round $i: it is completed" "${in_place[@]}"
    fi
    check "round $i: the backing is the merged image" same_bytes base model
    check "  the sibling reads as before" "$COWFS" merge --quiet --force sibling out
    check "  indeed" same_bytes out sibling-model
    expect_equal "  the COW is empty" \
        "$("$COWFS" info --json cow | jq -r '[.sectors_in_cow, .backing.state] | join(" ")')" "0 ok"
    rm -f base.cowfs-merge
done
echo "        killed $killed times, $half of them with a backing that was half merged"
check "some were killed in the middle" test "$half" -gt 0

set_up
interrupted() {
    local i
    for ((i = 0; i < 200; i++)); do
        rm -f never
        # Before it has begun, it ends without a word.
        if kill_after INT $((RANDOM * took / 32768)) "$COWFS" merge --quiet cow never && [[ -s $work/.out ]]; then return 0; fi
    done
    return 1
}
check "Ctrl-C ends a merge" interrupted
expect_equal "  with one line" "$(cat "$work/.out")" "cowfs: never: interrupted; nothing has been written"
check "  and leaves nothing" test ! -e never
