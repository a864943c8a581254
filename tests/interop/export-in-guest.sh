#!/bin/bash
# A guest with hostfs on an export works in it: unpacks a tree, copies, moves, links and removes, builds an archive of
# many small writes, and syncs. What it reads is what the host has, and the host has what it wrote.
. "$(dirname "$0")/interop.sh"

need_root
need bwrap tar
source=/usr/include/linux
[[ -d $source ]] || skip "because there is no $source to copy"

mkdir "$work"/{host,export}
tar cf "$work/host/tree.tar" -C "$source" .
cp -r "$source" "$work/host/from-host"
(cd "$source" && find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2) >"$work/host/sums"
"$COWFS" export "$work/host" "$work/export"
at_exit undo_mount_cow "$work/export"

output=$(guest_in_jail "$work/export" <<EOT
result() { if [ \$1 = 0 ]; then echo "done: \$2"; else echo "NOT: \$2"; fi; }
mkdir /e && mount -t hostfs none /e -o $work/export || exit 90
cd /e/from-host && sha256sum -c ../sums >/dev/null; result \$? "the guest reads what the host has"
mkdir /e/tree && cd /e/tree && tar xf ../tree.tar; result \$? "it unpacks a tree"
sha256sum -c ../sums >/dev/null; result \$? "  and reads it back"
cp -a /e/tree /e/copy && mv /e/copy /e/moved && diff -r /e/tree /e/moved; result \$? "it copies and moves a tree"
ln /e/tree/fs.h /e/hard && ln -s tree/fs.h /e/soft && cmp /e/hard /e/soft; result \$? "it makes links"
rm -r /e/moved/netfilter && [ ! -e /e/moved/netfilter ]; result \$? "it removes"
i=0
while [ \$i -lt 500 ]; do i=\$((i + 1)); echo "line \$i" >>/e/lines; done
[ \$(wc -l </e/lines) = 500 ]; result \$? "it appends line by line"
dd if=/e/tree.tar of=/e/pieces bs=777 2>/dev/null && cmp /e/tree.tar /e/pieces; result \$? "it writes odd pieces"
dd if=/dev/zero of=/e/pieces bs=1000 seek=3 count=1 conv=notrunc 2>/dev/null; result \$? "and in the middle"
truncate -s 5000 /e/pieces && [ \$(stat -c %s /e/pieces) = 5000 ]; result \$? "and cuts off"
chmod 0640 /e/lines && touch -d '2001-02-03 04:05:06' /e/lines; result \$? "and sets attributes"
mkfifo /e/fifo && (echo through >/e/fifo & cat /e/fifo | grep -q through); result \$? "a FIFO connects two of its processes"
rm /e/fifo
sync; result \$? "it syncs"
umount /e 2>/dev/null || cd / && umount /e; result \$? "it unmounts"
EOT
)
while read -r line; do check "${line#*: }" grep -q '^done' <<<"$line"; done <<<"$output"
expect_equal "that was all of it" "$(wc -l <<<"$output")" 14
check "the host has the tree" diff -r "$source" "$work/host/tree"
check "  and its copy, but for what was removed" eval '! diff -r "$source" "$work/host/moved" | grep -v "Only in .*: netfilter$"'
expect_equal "the lines" "$(cat "$work/host/lines")" "$(seq -f 'line %.0f' 500)"
expect_equal "with their attributes" "$(stat -c '%a %Y' "$work/host/lines")" \
    "640 $(date -u -d '2001-02-03 04:05:06' +%s)"
expect_equal "the links" "$(stat -c %h "$work/host/hard") $(readlink "$work/host/soft")" "2 tree/fs.h"
{ head -c 3000 "$work/host/tree.tar" && head -c 1000 /dev/zero && dd if="$work/host/tree.tar" bs=1000 skip=4 count=1 status=none; } >"$work/pieces"
check "the pieces" same_bytes "$work/host/pieces" "$work/pieces"
check "the export ends" "$COWFS" umount "$work/export"
