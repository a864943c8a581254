#!/bin/bash
# cowfs refuses a COW that a running UML holds, and names the process; UML refuses a COW that cowfs has mounted.
. "$(dirname "$0")/interop.sh"

make_backing $((4 << 20))
"$COWFS" create "$work/cow" "$work/backing"
"$COWFS" create "$work/other-cow" "$work/backing"

background guest "ubd0=$work/cow" <<'EOT'
exec 3<>/dev/ubda
touch /host/held
while [ ! -e /host/release ]; do sleep 0.2; done
EOT
holder=$background
check "a UML holds the COW" wait_until test -e "$share/held"

names_a_uml() {
    local number
    for number in $(grep -oE '[0-9]+' <<<"$stderr"); do
        [[ $(readlink "/proc/$number/exe") != */linux.uml ]] || return 0
    done
    echo "no pid of a linux.uml in: $stderr"
    return 1
}
checksum=$(sha256sum <"$work/cow")
: >"$work/merged"
check "cowfs refuses to mount it" fails_with 5 "$COWFS" mount "$work/cow" "$work/merged"
check "the message names the COW" says "^cowfs: .*$work/cow"
check "the message names the process" names_a_uml
check "cowfs refuses it read-only too" fails_with 5 "$COWFS" mount -o ro "$work/cow" "$work/merged"
check "cowfs refuses to make it anew" fails_with 5 "$COWFS" create --force "$work/cow" "$work/backing"
expect_equal "the COW is unchanged" "$(sha256sum <"$work/cow")" "$checksum"
check "nothing is left mounted" not is_mounted "$work/merged"

mount_cow "$work/other-cow" "$work/other"
check "another COW on the same backing is mounted meanwhile" same_bytes "$work/other" "$work/model"
umount_cow "$work/other"

touch "$share/release"
check "the UML ends" wait "$holder"

mount_cow "$work/cow" "$work/merged"
check "the COW can be mounted as soon as the UML has ended" same_bytes "$work/merged" "$work/model"
check "a UML cannot open the mounted COW" guest "ubd0=$work/cow" <<<'! head -c 512 /dev/ubda >/dev/null'
check "UML says that it is locked" grep "Failed to lock '$work/cow'" "$kernel_log"
make_changes 10
apply_changes "$work/model"
apply_changes "$work/merged"
check "the mount goes on" same_bytes "$work/merged" "$work/model"
umount_cow "$work/merged"

check "UML takes the COW as soon as it is unmounted" guest "ubd0=$work/cow" <<<"blockio read /dev/ubda >/host/seen"
check "what UML reads equals the model" same_bytes "$share/seen" "$work/model"
