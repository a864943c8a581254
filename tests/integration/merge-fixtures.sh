#!/bin/bash
# Every COW that a real UML wrote, merged in every way: into a new file, in place, over a V3 COW made of it, over a
# compacted one, and over the smallest one; each time the content that the guest saw.
. "$(dirname "$0")/../lib.sh"

need zstd
data=$(realpath "$(dirname "$0")/../data")
tar -C "$work" --zstd -xf "$data/cow-fixtures.tar.zst"
cd "$work"

on_disk() { sync "$1" && "$COWFS" info --json "$1" | jq .bytes_on_disk; }
sum() { sha256sum <"$1" | cut -d' ' -f1; }
cow_sum() { "$COWFS" merge --quiet --force "$1" "$work/merged" 2>"$work/said" && sum "$work/merged"; }

while IFS=$'\t' read -r name _ _ size _ _ device cut _; do
    [[ $name != \#* ]] || continue
    cow=$name/cow base=$name/base
    expected=$cut
    check "$name merges" "$COWFS" merge --quiet "$cow,$base" "$name/out"
    # uml_moo would lose the last sector of an odd size. It holds something past the backing's end in two of them.
    if (($(stat -c %s "$name/out") != size)); then
        expected=$device
        expect_equal "  into whole sectors" "$(stat -c %s "$name/out")" "$(((size + 511) / 512 * 512))"
    fi
    expect_equal "  into what the guest saw" "$(sum "$name/out")" "$expected"
    # Checksums of 5 GiB take their time, and uml_moo goes sector by sector.
    ((size < 1 << 30)) || { rm -rf "$name" && continue; }
    if ((size % 512 == 0)); then
        # uml_moo takes its backing's time as the header has it.
        check "  as uml_moo does" uml_moo -b "$base" "$cow" "$name/moo"
        check "  byte for byte" same_bytes "$name/out" "$name/moo"
        rm "$name/moo"
    fi

    check "$name becomes a V3 COW" "$COWFS" convert --quiet "$cow,$base" "$name/v3"
    info=$("$COWFS" info --json "$name/v3")
    expect_equal "  of V3, with a bit for every sector" \
        "$(jq -r '[.layout, .sectors_without_bit, .backing.state] | join(" ")' <<<"$info")" "V3 0 ok"
    expect_equal "  with the same content" "$(cow_sum "$name/v3")" "$expected"

    check "$name is found again, from its merged image" \
        "$COWFS" convert --quiet --backing "$base" "$name/out" "$name/smallest"
    expect_equal "  with the same content" "$(cow_sum "$name/smallest")" "$expected"
    check "  in no more space" test "$(on_disk "$name/smallest")" -le "$(on_disk "$name/v3")"

    check "the V3 COW is compacted" "$COWFS" compact "$name/v3"
    expect_equal "  with the same content" "$(cow_sum "$name/v3")" "$expected"
    # ext4 keeps a block for its list of extents, once there were more than four.
    check "  into no more space than the smallest" test "$(on_disk "$name/v3")" -le $(($(on_disk "$name/smallest") + 4096))

    check "$name merges in place, keeping a sibling" "$COWFS" merge --in-place --quiet --yes "$cow,$base" \
        --siblings "$name/smallest"
    expect_equal "  into what the guest saw" "$(sum "$base")" "$expected"
    expect_equal "  and the sibling still shows it" "$(cow_sum "$name/smallest")" "$expected"
    expect_equal "  the COW is empty, and of its backing" \
        "$("$COWFS" info --json "$cow" | jq .sectors_in_cow)" 0
    expect_equal "  and shows it, too" "$(cow_sum "$cow,$base")" "$expected"
    check "  the COW left out is refused" fails_with 3 "$COWFS" merge --quiet "$name/v3" "$name/never"
    check "  nothing is left of the merge" not compgen -G "$name/*.cowfs-merge"
    rm -rf "$name"
done < <(grep -v '^#' "$data/EXPECT.tsv")
