#!/bin/bash
# A UML guest boots from what `cowfs merge` made, from a compacted COW, from a converted one, and from a backing that was
# merged into; each holds the files that a guest wrote.
. "$(dirname "$0")/interop.sh"

cp "$UML_GUEST/root.ext4" "$work/backing"
"$COWFS" create "$work/cow" "$work/backing"
check "a guest writes into the COW, and removes something" guest -r ubd0 "ubd0=$work/cow" <<'EOT'
set -e
mkdir /root/data
for i in $(seq 60); do
    head -c $((i * 977)) /dev/urandom >/root/data/$i
done
rm /root/data/*3
cd /root && sha256sum data/* >sums
dd if=/dev/zero of=/root/zeros bs=1024 count=500 2>/dev/null
sync
EOT
look='set -e
cd /root
test $(ls data | wc -l) = 54
sha256sum -c sums
test $(wc -c <zeros) = 512000
echo more >more'

check "it is compacted" "$COWFS" compact "$work/cow"
check "it merges" "$COWFS" merge --quiet "$work/cow" "$work/merged"
check "as uml_moo does" uml_moo "$work/cow" "$work/moo"
check "byte for byte" same_bytes "$work/merged" "$work/moo"
check "e2fsck finds the result sound" e2fsck -fn "$work/merged"
check "it converts" "$COWFS" convert --quiet "$work/cow" "$work/converted"
check "the smallest COW is made" "$COWFS" convert --quiet --backing "$work/backing" "$work/merged" "$work/smallest"
cp -p --sparse=always "$work/cow" "$work/cow2"

check "a guest boots from the compacted COW" guest -r ubd0 "ubd0=$work/cow" <<<"$look"
check "a guest boots from the merged image" guest -r ubd0 "ubd0=$work/merged" <<<"$look"
check "a guest boots from the converted COW" guest -r ubd0 "ubd0=$work/converted" <<<"$look"
check "a guest boots from the smallest COW" guest -r ubd0 "ubd0=$work/smallest" <<<"$look"

check "it merges in place" "$COWFS" merge --in-place --yes --quiet "$work/cow2" --siblings "$work/cow"
check "e2fsck finds the backing sound" e2fsck -fn "$work/backing"
check "a guest boots from the emptied COW on it" guest -r ubd0 "ubd0=$work/cow2" <<<"$look"
check "a guest boots from the sibling, with what it wrote" guest -r ubd0 "ubd0=$work/cow" <<'EOT'
test "$(cat /root/more)" = more
EOT
check "reset gives the backing's content" "$COWFS" reset "$work/cow2"
check "a guest boots from it" guest -r ubd0 "ubd0=$work/cow2" <<<"$look"
check "real UML refuses a COW that was left out" not guest "ubd0=$work/converted" <<<"test -b /dev/ubda && dd if=/dev/ubda of=/dev/null count=1"
