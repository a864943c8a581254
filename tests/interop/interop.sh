# shellcheck shell=bash
# tests/interop/interop.sh: tests/lib.sh, plus what the tests against the real User-Mode Linux share.
#
# Environment   UML_GUEST   the directory that build-guest made (required)
#
#   guest [UML-RUN-OPTIONS] [UML-ARGUMENT...] <SCRIPT   boots UML; /host in the guest is $share, and the kernel
#                                                       log goes to $kernel_log
#   guest_in_jail DIRECTORY <SCRIPT                     the same by scripts/uml-jailed: of the host, UML sees this
#                                                       directory and nothing else; no /host
#
# The model: what the merged image must hold, kept apart from cowfs and UML, with dd, in a plain file.
#   make_backing BYTES      $work/backing, random and 0444, and $work/model, its copy filled up to whole sectors
#   make_changes [COUNT]    new data in $work/new, and places to change in $share/changes: lines "SECTOR COUNT",
#                           with the first sectors and the last one (which may be odd) always among them
#   apply_changes FILE      writes the new data at these places into FILE (the model, or a merged image)
#   patch FILE OFFSET LENGTH   the same for one range of bytes
#   $write_changes          a guest command for the same: /dev/ubdb ($work/new) to /dev/ubda

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

interop=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
[[ -e ${UML_GUEST:-}/.done ]] || fail "UML_GUEST must name a directory made by $interop/build-guest"
UML_GUEST=$(realpath "$UML_GUEST")
need linux.uml uml_mkcow uml_moo jq

share=$work/share
kernel_log=$work/kernel-log
mkdir "$share"
# shellcheck disable=SC2034  # for the tests
write_changes='blockio copy /dev/ubdb /dev/ubda </host/changes'

guest() {
    "$interop/uml-run" -s "$share" -l "$kernel_log" "$@"
}

# uml-run starts one program, which has to tell the jail of what else UML needs: the initrd and its own directories.
guest_in_jail() {
    cat >"$work/uml-in-jail" <<EOT
#!/bin/bash
for argument; do
    case \$argument in
    uml_dir=* | run=*) given+=(-w "\${argument#*=}") ;;
    initrd=*) given+=(-r "\${argument#*=}") ;;
    esac
done
exec "$interop/../../scripts/uml-jailed" "\${given[@]}" -w "$1" linux.uml "\$@"
EOT
    chmod +x "$work/uml-in-jail"
    UML=$work/uml-in-jail "$interop/uml-run" -l "$kernel_log"
}

make_backing() {
    rm -f "$work/backing"
    random_file "$work/backing" "$1"
    chmod 0444 "$work/backing"
    cp --no-preserve=mode "$work/backing" "$work/model"
    truncate --size=%512 "$work/model"
}

make_changes() {
    local sectors=$(($(stat -c %s "$work/model") / 512)) i first count
    random_file "$work/new" $((sectors * 512))
    {
        echo "0 3"
        echo "$((sectors - 1)) 1"
        for ((i = 0; i < ${1:-60}; i++)); do
            first=$(((RANDOM << 15 | RANDOM) % sectors))
            count=$((1 + RANDOM % 20))
            ((first + count <= sectors)) || count=$((sectors - first))
            echo "$first $count"
        done
    } >"$share/changes"
}

patch() {
    dd if="$work/new" of="$1" bs=1M skip="$2" seek="$2" count="$3" conv=notrunc status=none \
        iflag=skip_bytes,count_bytes oflag=seek_bytes
}

apply_changes() {
    local first count
    while read -r first count; do
        patch "$1" $((first * 512)) $((count * 512)) || return
    done <"$share/changes"
}
