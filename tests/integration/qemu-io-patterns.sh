#!/bin/bash
# qemu-io writes patterns, zeroes and discards at random places of a merged image, aligned and not, through each of
# QEMU's caches and I/O engines. What it reads back is right, and the image equals a plain file that got the same.
. "$(dirname "$0")/../lib.sh"

need qemu-io qemu-img

rand() { rand=$(((RANDOM << 15 | RANDOM) % $1)); }

# A range inside [$1, $2) in whole units of $3 bytes: sets $offset and $length.
place() {
    rand $((($2 - $1) / $3))
    offset=$(($1 + rand * $3))
    length=$(((1 + RANDOM % (1 + 20000 / $3)) * $3))
    ((offset + length <= $2)) || length=$(($2 - offset))
}

verified() { # COMMAND PATTERN: the command, then a read of the same range that expects the pattern
    echo "$1 $offset $length"
    echo "read -q -P $2 $offset $length"
}

# What qemu-io is told: the same commands go to the merged image and to the model.
write_commands() { # SIZE COUNT
    local i quarter pattern reads
    for ((i = 0; i < $2; i++)); do
        case $((RANDOM % 3)) in
        0) place 0 "$1" 4096 ;;
        1) place 0 "$1" 512 ;;
        2) place 0 "$1" 1 ;;
        esac
        pattern=$((1 + RANDOM % 255))
        case $((RANDOM % 10)) in
        0 | 1 | 2) verified "write -q -P $pattern" "$pattern" ;;
        3) verified "write -q -f -P $pattern" "$pattern" ;;
        4) verified "write -q -z" 0 ;;
        5) verified "write -q -z -u" 0 ;;
        6)  # QEMU leaves out what does not fill its alignment: 4096 for O_DIRECT here.
            place 0 "$1" 4096
            verified "discard -q" 0 ;;
        7)  place 0 $(($1 - 8192)) 512
            length=5632
            verified "writev -q -P $pattern" "$pattern" | sed 's/5632$/512 1024 4096/;n' ;;
        8)  reads=
            for quarter in 0 1 2 3; do # several at a time, which must not overlap
                place $(($1 * quarter / 4 & ~4095)) $(($1 * (quarter + 1) / 4 & ~4095)) 512
                echo "aio_write -q -P $((pattern ^ quarter << 5)) $offset $length"
                reads+="read -q -P $((pattern ^ quarter << 5)) $offset $length"$'\n'
            done
            printf 'aio_flush\n%s' "$reads" ;;
        9) echo flush ;;
        esac
    done
    # The last bytes, which may share a sector with the zeros after the end of the backing.
    offset=$(($1 - 300)) length=300
    verified "write -q -P 77" 77
}

run_qemu_io() { # FILE OPTIONS...: $work/commands; prints nothing unless something is wrong
    # Its prompt is left out. Its exit status tells of any command that failed.
    qemu-io -f raw -d unmap "${@:2}" "$1" <"$work/commands" | sed 's/^\(qemu-io> \)*//; /^$/d'
}

# The backing is half data and half holes; the model is its plain copy, filled up to whole sectors.
mount_on_backing_of() { # BYTES
    local i
    rm -f "$work"/{cow,backing}
    truncate --size="$1" "$work/backing"
    for i in 0 2 4 6; do
        head -c 2M /dev/urandom | dd of="$work/backing" bs=1M seek=$((i * 2)) conv=notrunc iflag=fullblock status=none
    done
    chmod 0444 "$work/backing"
    cp --no-preserve=mode "$work/backing" "$work/model"
    truncate --size=%512 "$work/model"
    "$COWFS" create "$work/cow" "$work/backing"
    mount_cow "$work/cow" "$work/merged"
}

try() { # OPTIONS...
    write_commands "$(stat -c %s "$work/model")" 150 >"$work/commands"
    check "qemu-io $*: all it wrote reads back" run_qemu_io "$work/merged" "$@"
    check "it does so on the model" run_qemu_io "$work/model"
    check "qemu-img compare: the merged image equals the model" \
        qemu-img compare -f raw -F raw "$work/merged" "$work/model"
    check "byte for byte" same_bytes "$work/merged" "$work/model"
}

# O_DIRECT comes with whole 4096-byte blocks only: with another size QEMU refuses to write to any file system that
# takes O_DIRECT of any alignment, as FUSE does.
mount_on_backing_of $((16 << 20))
backing=$(sha256sum <"$work/backing")
modes=("-t writeback" "-t writethrough" "-t unsafe" "-n" "-t directsync" "-n -i native")
! qemu-io -f raw -n -i io_uring -c 'read -q 0 512' "$work/model" 2>"$work/no-io-uring" || modes+=("-n -i io_uring")
for mode in "${modes[@]}"; do
    # shellcheck disable=SC2086 # several options
    try $mode
done
umount_cow "$work/merged"
mount_cow "$work/cow" "$work/merged"
check "the same after cowfs umount and mount, O_DIRECT" \
    qemu-img compare -T none -f raw -F raw "$work/merged" "$work/model"
umount_cow "$work/merged"
expect_equal "the backing is as it was" "$(sha256sum <"$work/backing")" "$backing"

mount_on_backing_of $(((16 << 20) - 5000)) # ends with a part of a sector
try -t writeback
umount_cow "$work/merged"
mount_cow -o ro "$work/cow" "$work/merged"
check "the same after cowfs umount and a read-only mount" same_bytes "$work/merged" "$work/model"
