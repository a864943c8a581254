#!/bin/bash
# A COW that UML made and wrote is read right by cowfs; and the backing stays as it was.
. "$(dirname "$0")/interop.sh"

for size in $((4 << 20)) 3000001; do
    cow=$work/cow-$size
    make_backing "$size"
    make_changes
    checksum=$(sha256sum <"$work/backing")

    check "UML makes a COW for a backing of $size bytes and writes to it" \
        guest "ubd0=$cow,$work/backing" "ubd1r=$work/new" <<<"$write_changes"
    apply_changes "$work/model"
    changed=$(awk '{ for (i = 0; i < $2; i++) print $1 + i }' "$share/changes" | sort -u | wc -l)
    expect_equal "cowfs info counts the sectors that UML wrote" \
        "$("$COWFS" info --json "$cow" | jq .sectors_in_cow)" "$changed"

    mount_cow -o ro "$cow" "$work/merged"
    check "the read-only merged image equals the model" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"

    mount_cow "$cow" "$work/merged"
    check "the read-write merged image equals the model" same_bytes "$work/merged" "$work/model"
    umount_cow "$work/merged"
    expect_equal "the backing is unchanged" "$(sha256sum <"$work/backing")" "$checksum"
done
