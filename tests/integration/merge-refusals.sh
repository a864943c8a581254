#!/bin/bash
# merge, convert, compact and reset: what they refuse, what they leave when they fail, modes and owners, odd sizes.
. "$(dirname "$0")/../lib.sh"

need script
cd "$work"
random_file base $(((3 << 20) + 777))
"$COWFS" create cow base
: >point
mount_cow cow point
head -c 70000 /dev/urandom | dd of=point bs=4k seek=100 conv=notrunc status=none
cp point model
umount_cow point
truncate --size=$(((3 << 20) + 777)) model
chmod 0640 cow

names() { find . -mindepth 1 -maxdepth 1 -not -name '.check' -not -name '.std*' | sort | xargs; }
unchanged() { [[ $(sha256sum cow base | sha256sum) == "$sums" ]]; }
sums=$(sha256sum cow base | sha256sum)

# --- the arguments ---
check "no OUTPUT is a mistake" fails_with 2 "$COWFS" merge cow
check "  and said" says 'cowfs: give either OUTPUT or --in-place'
check "OUTPUT with --in-place is a mistake" fails_with 2 "$COWFS" merge --in-place --yes cow out
check "--delete without --in-place is a mistake" fails_with 2 "$COWFS" merge --delete cow out
check "--force with --in-place is a mistake" fails_with 2 "$COWFS" merge --in-place --yes --force cow
check "off a terminal, --in-place needs --yes" fails_with 2 "$COWFS" merge --in-place cow
check "  and says so" says "cowfs: $work/base: .*every other COW .*give --yes"
check "no COW is a failure" fails_with 1 "$COWFS" merge nowhere out
check "a plain file is no COW" fails_with 4 "$COWFS" merge base out
check "compact: a plain file is no COW" fails_with 4 "$COWFS" compact base
check "reset: a plain file is no COW" fails_with 4 "$COWFS" reset base
check "convert: a plain file is no COW" fails_with 4 "$COWFS" convert base out
check "convert: a COW is no plain image" fails_with 1 "$COWFS" convert --backing base cow out
check "convert: an image of another size" fails_with 3 "$COWFS" convert --backing base "$COWFS" out
check "nothing has changed" unchanged

# --- the output ---
ln base hard-base
ln -s base soft-base
ln cow hard-cow
ln -s cow soft-cow
ln -s nowhere dangling
before=$(names)
for output in base cow hard-base soft-base hard-cow soft-cow; do
    check "$output is no output, also with --force" fails_with 1 "$COWFS" merge --force cow "$output"
    check "  and that is said" says "cowfs: $output: is the (COW|backing of the COW) itself; give another name"
    check "$output is no output of convert" fails_with 1 "$COWFS" convert --force cow "$output"
done
mkdir dir
mkfifo fifo
check "a directory is no output" fails_with 1 "$COWFS" merge --force cow dir
check "a FIFO is no output" fails_with 1 timeout 5 "$COWFS" merge --force cow fifo
check "a dangling link is no output" fails_with 1 "$COWFS" merge cow dangling
rm -r dir fifo
echo old >out
chmod 0604 out
check "an existing file is not replaced" fails_with 1 "$COWFS" merge cow out
check "  and that is said" says 'cowfs: out: exists; give another name, or --force'
expect_equal "  and it is as it was" "$(cat out)" old
((EUID != 0)) || chown 1:1 out
check "with --force it is" "$COWFS" merge --force cow out
check "  by the merged image" same_bytes out model
expect_equal "  which has its mode" "$(stat -c %a out)" 604
((EUID != 0)) || expect_equal "  and its owner" "$(stat -c %u:%g out)" 1:1
ln -s out link-to-out
check "a link is followed" "$COWFS" merge --force cow link-to-out
check "  and stays" test -L link-to-out
rm out link-to-out
(umask 027 && check "merge makes a new file" "$COWFS" merge cow out)
expect_equal "with the COW's mode, less the umask" "$(stat -c %a out)" 640
rm out
expect_equal "nothing else is there" "$(names)" "$before"
check "nothing has changed" unchanged

# --- in use ---
mount_cow soft-cow point
check "a mounted COW is in use" fails_with 5 "$COWFS" merge cow out
for command in "merge --in-place --yes" compact reset; do
    # shellcheck disable=SC2086
    check "  for $command, too" fails_with 5 "$COWFS" $command cow
done
umount_cow point
touch -r base base-time
"$COWFS" create other base
mount_cow other point
check "a backing in use can be merged from" "$COWFS" merge --quiet cow out
check "  but not into" fails_with 5 "$COWFS" merge --in-place --yes cow
umount_cow point
check "  nothing has changed" unchanged
rm out hard-cow soft-cow

# --- siblings that are none ---
cp -p base base2
"$COWFS" create stranger base2
check "a COW of another backing is no sibling" fails_with 3 "$COWFS" merge --in-place --yes cow --siblings stranger
check "  nor is the COW itself" fails_with 1 "$COWFS" merge --in-place --yes cow --siblings cow
check "  nor is one named twice" fails_with 1 "$COWFS" merge --in-place --yes cow --siblings other other
check "  nothing has changed" unchanged
rm base2 stranger

# --- the terminal ---
check "a no on the terminal is a failure" fails_with 1 script -qec "$COWFS merge --in-place cow" /dev/null <<<n
check "  that changes nothing" unchanged
check "a COW is reset" "$COWFS" reset other
expect_equal "  and keeps its backing" "$("$COWFS" info --json other | jq -r '[.sectors_in_cow, .backing.state] | join(" ")')" "0 ok"
ln other hard-other
check "one with two names is not" fails_with 1 "$COWFS" reset other
touch --date=@1234567890 base
check "a COW of a backing that changed is refused" fails_with 3 "$COWFS" merge cow out
for command in "merge --in-place --yes" compact reset; do
    # shellcheck disable=SC2086
    check "  by $command, too" fails_with 3 "$COWFS" $command cow
done
touch -r base-time base
check "a yes on the terminal merges" script -qec "$COWFS merge --in-place --delete cow" /dev/null <<<y
check "  the backing is the merged image" same_bytes base model
check "  the COW is gone" test ! -e cow
expect_equal "  and nothing is left" "$(names)" \
    "./base ./base-time ./dangling ./hard-base ./hard-other ./model ./other ./point ./soft-base"

# --- odd sizes ---
for size in 1 511 512 513 4095 4097 32769 1000001; do
    rm -f base cow out
    random_file base "$size"
    "$COWFS" create cow base
    check "size $size: an empty COW merges into the backing's copy" "$COWFS" merge cow out
    check "  byte for byte" same_bytes out base
    mount_cow cow point
    printf x | dd of=point bs=1 seek=$((size - 1)) conv=notrunc status=none
    umount_cow point
    cp base model
    printf x | dd of=model bs=1 seek=$((size - 1)) conv=notrunc status=none
    check "size $size: its last byte changed" "$COWFS" merge --force cow out
    check "  is the one that differs" same_bytes out model
    ((size % 512 != 0)) || continue
    mount_cow cow point
    printf y | dd of=point bs=1 seek="$size" conv=notrunc status=none
    umount_cow point
    check "size $size: a byte past it" "$COWFS" merge --quiet --force cow out
    expect_equal "  needs whole sectors" "$(stat -c %s out)" $(((size + 511) / 512 * 512))
    printf y >>model
    truncate --size=%512 model
    check "  with the same bytes" same_bytes out model
    check "  and in place" "$COWFS" merge --in-place --yes cow
    check "  the same" same_bytes base model
done
