#!/bin/bash
# The man pages are sound, and name every command and every option that the program knows.
. "$(dirname "$0")/../lib.sh"

need mandoc
pages=$(realpath "$(dirname "$0")/../../cli/man")

for page in "$pages"/*.1; do
    check "$(basename "$page") is sound mdoc" mandoc -T lint -W warning "$page"
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS EXAMPLES LIMITATIONS "EXIT STATUS" "SEE ALSO"; do
        check "  it has $section" grep -qE "^\.Sh \"?$section" "$page"
    done
done

# mandoc's plain text, without the bold that is made of overstrikes.
text_of() { mandoc -T utf8 "$1" | col -b >"$work/page"; }
options_of() { "$COWFS" "$@" --help | grep -oE '(^|[ ,])--?[a-z][a-z-]*' | tr -d ' ,' | sort -u; }
names() { grep -qE -- "(^|[^a-z-])$1([^a-z-]|\$)" "$work/page"; }

mapfile -t commands < <("$COWFS" --help | sed -n '/^Subcommands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
check "there are commands" test "${#commands[@]}" -ge 4
text_of "$pages/cowfs.1"
for option in $(options_of); do check "cowfs.1 names $option" names "$option"; done
for command in "${commands[@]}"; do check "cowfs.1 names $command" names "$command"; done
for command in "${commands[@]}"; do
    text_of "$pages/cowfs-$command.1"
    for option in $(options_of "$command"); do
        check "cowfs-$command.1 names $option" names "$option"
    done
done

text_of "$pages/cowfs-mount.1"
for option in ro rw allow_other cache=window cache=none cache=kernel commit= threads= watchdog= pending= \
    backing-change=; do
    check "cowfs-mount.1 names -o $option" grep -qF -- "$option" "$work/page"
done
text_of "$pages/cowfs-export.1"
for option in $("$COWFS" export --help | grep -oE '[a-z_-]+=|allow_other|\bro\b' | sort -u); do
    check "cowfs-export.1 names -o $option" grep -qF -- "$option" "$work/page"
done
text_of "$pages/cowfs-info.1"
truncate -s 1M "$work/backing"
"$COWFS" create "$work/cow" "$work/backing"
for key in $("$COWFS" info --json "$work/cow" | jq -r '[paths | last] | unique | .[]'); do
    check "cowfs-info.1 names the key $key" names "$key"
done
