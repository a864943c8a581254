#!/bin/bash
# The commands that look at a COW: check, map, compare; and relocate, mkimage, and cowfs under the name of uml_mkcow:
# what they print, their exit statuses, their JSON, and what they refuse.
. "$(dirname "$0")/../lib.sh"

need_root
need jq script uml_mkcow uml_moo
cd "$work"
json() { jq -e "$@" <"$work/.stdout" >"$work/.jq" || { cat "$work/.stdout" && return 1; }; }
prints() { grep -qE -- "$1" "$work/.stdout" || { printf 'no match for: %s\n' "$1" && cat "$work/.stdout" && return 1; }; }
mib=$((1 << 20))

random_file backing $((8 * mib))
truncate --size=+8M backing
touch -d @1700000001 backing
"$COWFS" create cow backing
mount_cow cow merged
dd if=/dev/urandom of=merged bs=64K seek=20 count=3 conv=notrunc status=none # in the backing's data
dd if=/dev/urandom of=merged bs=64K seek=200 count=1 conv=notrunc status=none # in its hole
fallocate --punch-hole --offset $((2 * mib)) --length 65536 merged
cp merged raw

# --- in use ---
for command in check "check --repair" map "compare cow"; do
    # shellcheck disable=SC2086
    check "$command refuses a COW that is mounted" fails_with 5 "$COWFS" $command cow
    check "  and says so" says "^cowfs: cow: in use by cowfs .*; .cowfs umount. it first$"
done
check "relocate refuses it as well" fails_with 5 "$COWFS" relocate cow backing
umount_cow merged
cp --sparse=always cow original

# --- map ---
check "map prints a table" fails_with 0 "$COWFS" map cow
expect_equal "  of the extents" "$(tail -n +2 "$work/.stdout" | awk '{ print $1 "+" $2 "=" $3 }' | xargs)" \
    "0+$((20 * 65536))=backing $((20 * 65536))+$((3 * 65536))=cow $((23 * 65536))+$((2 * mib - 23 * 65536))=backing \
$((2 * mib))+65536=zero $((2 * mib + 65536))+$((6 * mib - 65536))=backing $((8 * mib))+$((200 * 65536 - 8 * mib))=zero \
$((200 * 65536))+65536=cow $((201 * 65536))+$((16 * mib - 201 * 65536))=zero"
check "map --json is JSON" fails_with 0 "$COWFS" map --json cow
check "  with the same extents" json '.size == 16777216 and (.extents | length) == 8 and .extents[1] ==
    {offset: 1310720, length: 196608, where: "cow"} and ([.extents[].length] | add) == .size'
check "  and their sums" json '.total == {cow: 262144, backing: 8126464, zero: 8388608}'
check "map takes the backing" fails_with 0 "$COWFS" map cow,backing

COLUMNS=44 LC_ALL=C.UTF-8 check "map --picture draws it" fails_with 0 "$COWFS" map --picture cow
check "  with shades" prints '█'
check "  and the offset of each row" prints '^ +8 MiB│ {2,}'
check "  no wider than asked for" not grep -qE '^.{45,}' <(grep '│' "$work/.stdout")
check "  without colour, since it is no terminal" not grep -q $'\033' "$work/.stdout"
LC_ALL=C check "  in ASCII where the locale has no more" fails_with 0 "$COWFS" map --picture cow
check "  without other characters" not grep -qP '[^\x00-\x7f]' "$work/.stdout"
terminal() { env "$@" TERM=xterm LC_ALL=C.UTF-8 script -qec "stty cols 50 rows 20; '$COWFS' map --picture cow" /dev/null; }
check "  with colour on a terminal" grep -q $'\033\[0;33m' <(terminal A=B)
check "  but not with NO_COLOR" not grep -q $'\033' <(terminal NO_COLOR=1)
check "map --svg draws a file" fails_with 0 "$COWFS" map --svg picture.svg cow
expect_equal "  and prints nothing" "$(<"$work/.stdout")" ""
check "  an SVG" grep -q '^<svg xmlns="http://www.w3.org/2000/svg"' picture.svg
check "  that is whole" grep -q '^</svg>$' picture.svg
check "  which is not overwritten" fails_with 1 "$COWFS" map --svg picture.svg cow
check "  unless that is asked for" fails_with 0 "$COWFS" map --svg picture.svg --force cow
for file in cow backing; do
    check "  but never the $file" fails_with 1 "$COWFS" map --svg $file --force cow
    check "    as it is said" says "^cowfs: $file: is the (COW|backing) itself; give another name"
done
check "map has only one form" fails_with 2 "$COWFS" map --json --picture cow

# --- compare ---
check "a COW equals a raw copy of its merged image" fails_with 0 "$COWFS" compare cow raw
check "  and says so" prints '^cow and raw hold the same$'
"$COWFS" create fresh backing
check "it differs from a fresh one" fails_with 1 "$COWFS" compare --json cow fresh
check "  at the first change" json ".same == false and .first_difference >= $((20 * 65536)) and
    .first_difference < $((20 * 65536 + 16)) and .size_a == .size_b and .a == \"cow\" and .b == \"fresh\""
check "  which also the text says" fails_with 1 "$COWFS" compare fresh cow
check "    with its sector" prints "^fresh and cow differ: first at byte [0-9]+ \(sector 2560\)$"
check "a fresh COW equals its backing" fails_with 0 "$COWFS" compare --json fresh backing
check "  without reading anything" json '.same and .bytes_read == 0 and .first_difference == null'
check "compare --quiet prints nothing" fails_with 1 "$COWFS" compare -q cow fresh
expect_equal "  at all" "$(cat "$work/.stdout" "$work/.stderr")" ""
truncate --size=+1000 raw
check "a longer image with zeros at its end is the same" fails_with 0 "$COWFS" compare cow raw
check "  and it is said how" prints '^cow and raw hold the same; raw is 1000 bytes longer, by zeros$'
check "  with --strict it is not" fails_with 1 "$COWFS" compare --strict cow raw
check "  and why" prints 'differ in size only; raw is 1000 bytes longer'
check "a COW taken as a raw file is another" fails_with 1 "$COWFS" compare --raw cow cow raw
check "--raw has to name one of them" fails_with 2 "$COWFS" compare --raw other cow raw
check "compare needs two images" fails_with 2 "$COWFS" compare cow
check "a missing image is told" fails_with 1 "$COWFS" compare cow missing
check "  by its name" says "^cowfs: missing: "
dd if=/dev/urandom of=fresh bs=4 seek=5 count=1 conv=notrunc status=none
check "a damaged COW is refused" fails_with 4 "$COWFS" compare cow fresh

# --- check ---
check "check finds nothing but what the discard has left" fails_with 0 "$COWFS" check cow
check "  which it calls a remark" prints '^cow: remark: 128 sectors of the COW take no space and read as zeros'
check "  and the COW in order" prints '^cow: in order$'
check "what is no COW is damaged" fails_with 4 "$COWFS" check raw
check "  and it is said why" prints '^raw: damage: is not a COW file'
truncate --size=$((8192 + 4096 + 21 * 65536)) cow
check "a COW that was cut is damaged" fails_with 4 "$COWFS" check --json cow
check "  which the JSON says" json '.damaged and .cow == "cow" and .repaired == [] and (.findings[0] |
    .finding == "data-cut-short" and .severity == "damage" and .count == 512 and .first == 1376256 and
    .repairable == false and (.what | length > 0) and (.advice | length > 0))'
check "  and is not mended" fails_with 4 "$COWFS" check --repair cow
cp --sparse=always original cow
truncate --size=+5000 cow
check "zeros after the end are mended" fails_with 0 "$COWFS" check --repair --json cow
check "  which the JSON says" json '.damaged == false and .repaired[0].finding == "trailing-bytes"'
check "  so that the COW is as it was" same_bytes cow original
check "a missing file is no damage" fails_with 1 "$COWFS" check missing
check "check --repair and --apply-pending exclude each other" fails_with 2 "$COWFS" check --repair --drop-pending cow
check "there may be nothing to apply" fails_with 1 "$COWFS" check --apply-pending cow

# --- relocate ---
mkdir images
mv backing images/backing
check "the moved backing is missed" fails_with 3 "$COWFS" map cow
check "relocate finds it" fails_with 0 "$COWFS" relocate cow images/backing
check "  and says so" prints "^cow: relocated from $work/backing to $work/images/backing$"
check "  which helps" fails_with 0 "$COWFS" map cow
check "once more it is where it was" fails_with 0 "$COWFS" relocate cow images/backing
check "  and it is said" prints 'names .* already$'
touch images/backing
check "a changed backing is refused" fails_with 3 "$COWFS" relocate cow images/backing
check "its time is not set back without --yes" fails_with 2 "$COWFS" relocate --restore-mtime cow images/backing </dev/null
check "  and it is said what that means" says "can't be verified.*--yes"
check "--yes alone means nothing" fails_with 2 "$COWFS" relocate --yes cow images/backing
check "with --yes it is" fails_with 0 "$COWFS" relocate --restore-mtime --yes cow images/backing
check "  with a warning" says "corrupted"
expect_equal "  to the second" "$(stat -c %Y images/backing)" 1700000001
check "a backing of another size never is" fails_with 3 "$COWFS" relocate --restore-mtime --yes cow raw
check "a missing one is told" fails_with 3 "$COWFS" relocate cow missing
check "the image is the same after all that" fails_with 0 "$COWFS" compare cow raw

# --- mkimage ---
for fs in ext2 ext3 ext4 xfs btrfs swap; do
    check "mkimage makes $fs" fails_with 0 "$COWFS" mkimage $fs 400M $fs.img
    expect_equal "  of its kind" "$(blkid -p -o value -s TYPE $fs.img)" $fs
    expect_equal "  of its size" "$(stat -c %s $fs.img)" $((400 * mib))
    check "  and sparse" test "$(stat -c %b $fs.img)" -lt $((200 * mib / 512))
done
mount_fs -o loop ext4.img on-ext4
check "which can be mounted" test -d on-ext4/lost+found
umount_fs on-ext4
check "an image is not overwritten" fails_with 1 "$COWFS" mkimage ext4 400M xfs.img
check "  unless that is asked for" fails_with 0 "$COWFS" mkimage --force ext4 16M xfs.img
check "other kinds are refused" fails_with 2 "$COWFS" mkimage minix 16M new.img
for size in 0 1000 16X -5 ""; do
    check "and a size of '$size'" fails_with 2 "$COWFS" mkimage ext4 "$size" new.img
done
check "a size too small is mkfs's to tell" fails_with 1 "$COWFS" mkimage ext4 4K new.img
check "  in one line" says "^cowfs: new.img: mkfs.ext4 has failed: "
check "a full disk leaves nothing behind" fails_with 1 prlimit --fsize=$((8 * mib)) "$COWFS" mkimage ext4 400M new.img
mkdir programs
printf '#!/bin/sh\nsleep 60\n' >programs/mkfs.ext4
chmod +x programs/mkfs.ext4
check "Ctrl-C stops it" fails_with 1 env PATH="$work/programs:$PATH" timeout --signal=INT --preserve-status 1 \
    "$COWFS" mkimage ext4 400M new.img
check "  as it says" says "^cowfs: new.img: interrupted; nothing is left behind"
expect_equal "and after all that nothing is left" "$(ls -A | grep -E 'new|\.tmp$' || true)" ""

# --- as uml_mkcow ---
mkdir names
ln -s "$COWFS" names/uml_mkcow
check "as uml_mkcow it makes what that makes" names/uml_mkcow ours images/backing
check "  byte for byte" eval "uml_mkcow theirs images/backing && cmp ours theirs"
check "  and refuses an existing file" fails_with 1 names/uml_mkcow ours images/backing
check "  under its name" says "^uml_mkcow: ours: exists"
mount_cow ours merged
dd if=/dev/urandom of=merged bs=4K count=1 conv=notrunc status=none
umount_cow merged
check "  unless -f is given: then it is empty" names/uml_mkcow -f ours images/backing
check "  really" same_bytes ours theirs
check "  wrong arguments are a usage error, as there" fails_with 2 names/uml_mkcow ours
check "  it has a version" fails_with 0 names/uml_mkcow --version
check "    of its own" prints "^uml_mkcow of cowfs [0-9]"
check "  and help" fails_with 0 names/uml_mkcow --help
check "  a missing backing leaves no COW" fails_with 3 names/uml_mkcow new missing
check "  at all" not test -e new

# --- as uml_moo ---
ln -s "$COWFS" names/uml_moo
check "as uml_moo it merges into a new image" names/uml_moo cow merged-by-us
check "  as that does" eval "uml_moo cow merged-by-it && cmp merged-by-us merged-by-it"
check "  but overwrites nothing" fails_with 1 names/uml_moo cow merged-by-us
check "  under its name" says "^uml_moo: merged-by-us: exists"
check "  above all not the backing" fails_with 1 names/uml_moo cow images/backing
cp --preserve images/backing moved
check "  with -b the backing may be elsewhere" names/uml_moo -b moved cow again
check "  which makes no difference" same_bytes again merged-by-it
check "  a backing that does not match is refused" fails_with 3 names/uml_moo -b merged-by-it cow new
check "  an output or -d is needed" fails_with 2 names/uml_moo cow
check "  not both" fails_with 2 names/uml_moo -d cow new
check "  it has a version" fails_with 0 names/uml_moo --version
check "    of its own" prints "^uml_moo of cowfs [0-9]"
check "  -d merges into the backing" fails_with 0 names/uml_moo -d cow
check "    with a warning" says "every other COW of this backing becomes invalid"
check "    and right" same_bytes images/backing merged-by-it
check "    and the COW can be used on" fails_with 0 "$COWFS" compare --json cow images/backing
check "    but is empty" json '.same and .bytes_read == 0'
check "    while others are refused" fails_with 3 "$COWFS" map ours

# Installed where they don't clash with the package uml-utilities.
check "install puts the links" env DESTDIR="$work/root" cmake --install "${BUILD:?}" --component Unspecified
for name in uml_mkcow uml_moo; do
    found=$(find "$work/root" -name $name)
    expect_equal "  of $name to the program" "$(readlink -f "$found")" "$(find "$work/root" -path '*/bin/cowfs')"
    check "  out of the way" grep -q "/libexec/cowfs/$name\$" <<<"$found"
done

# --- what create and mount say ---
check "create tells of a missing backing" fails_with 3 "$COWFS" create new missing
check "  and what to do" says "^cowfs: missing: there is no such backing; give an image that is there"
check "and of a missing directory" fails_with 1 "$COWFS" create nowhere/new images/backing
check "  and what to do" says "there is no directory $work/nowhere; make it first"
: >nothing
"$COWFS" create of-nothing nothing
: >merged
check "an image of 0 bytes is mounted" fails_with 0 "$COWFS" mount of-nothing merged
at_exit undo_mount_cow "$work/merged"
check "  with a notice" says "^cowfs: of-nothing: its backing $work/nothing has 0 bytes.*cowfs mkimage"
