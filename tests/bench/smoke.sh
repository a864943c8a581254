#!/bin/bash
# The benchmark's programs measure, and print and write what README.md beside them says; with sizes so small that
# their figures mean nothing.
. "$(dirname "$0")/../lib.sh"
need_root
need python3 fio losetup jq tar git mke2fs
here=$(dirname "$(realpath "$0")")
export TMPDIR=$work

check "data-path measures rows in turns" "$here/data-path" --cowfs "$COWFS" --null "$NULL_SERVER" \
    --rows native,loop,cowfs,cowfs-loop,cowfs-loop-direct,null \
    --columns read-4k,write-1m,cold-1m --rounds 1 --seconds 0.05 --size 8 \
    --json "$work/data-path.json" --svg "$work/data-path.svg"
has() { # FILE JQ-CONDITION
    [[ $(jq "$2" "$1") == true ]] || { jq . "$1" && return 1; }
}
check "each row has a figure in each column" has "$work/data-path.json" \
    '(.results | length) == 18 and all(.results[]; .median > 0 and (.samples | length) == 1)'
check "nothing was left out" has "$work/data-path.json" '.notes == []'
check "what is wanted is compared" has "$work/data-path.json" \
    '[.wanted[] | select(.row == "cowfs-loop-direct" and .against == "loop" and .reached > 0)] | length == 3'
check "the picture is XML" python3 -c 'import sys, xml.dom.minidom as dom; dom.parse(sys.argv[1])' \
    "$work/data-path.svg"

check "scale measures a mount" "$here/scale" one-copy --cowfs "$COWFS" --mounts 1 --size 8 --json "$work/scale.json"
check "with plain and direct reads" has "$work/scale.json" \
    '[.sections["one-copy"].rows[] | select(.backing_mib == 8 and .rate > 0 and .anon_mib > 0)] | length == 2'

check "README has the tables and the picture of the kept results" "$here/readme-table" --check "$here/../../README.md"
check "nothing stays mounted" not grep -q "$work" /proc/self/mountinfo
