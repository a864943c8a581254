#!/bin/bash
# export-real-use.sh tree|build|git|rsync|tar|system|find
# Programs that people use, in an export: afterwards the host's directory holds what it should, and nothing else.
#
# Environment   LONG   if it is 1, a tree of more than 70,000 files is unpacked, and all of cowfs is built (some minutes)
. "$(dirname "$0")/../lib.sh"

need_root
top=$(realpath "$(dirname "$0")/../..")
source=/usr/include # real files of all sizes; whoever built cowfs has them
[[ -d $source/linux ]] || skip "because there is no $source/linux to copy"
: "${LONG:=0}"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null

# export_as OPTIONS: $work/host is seen at $work/export
export_as() {
    mkdir -p "$work/host" "$work/export"
    at_exit undo_mount_cow "$work/export"
    "$COWFS" export -o "allow_other${1:+,$1}" "$work/host" "$work/export"
}
# What wrote into a pipe may be in the export still, a moment after its reader has seen the end.
end_export() { check "it ends" wait_until "$COWFS" umount "$work/export"; }

# All that ls and getfattr know, but for the times of what a program makes itself.
listing() { (cd "$1" && find . -printf '%P %y %m %U:%G %n %l %Ty-%Tm-%TdT%TT' \( -type d -printf '\n' -o -printf ' %s\n' \) | LC_ALL=C sort); }
same_listing() { diff <(listing "$1") <(listing "$2"); }
same_content() { diff --recursive --no-dereference "$1" "$2"; }

# A tree of everything that a file system user has: owners, modes, links, holes, FIFOs, attributes, odd names.
make_mixed_tree() {
    local tree=$1 i
    mkdir -p "$tree"/{etc,bin,var/spool/mail,home/alice,odd}
    cp -a "$source/linux/"*.h "$tree/etc"
    chown -R 12345:12346 "$tree/home/alice" "$tree/etc/"a*.h
    chmod 02775 "$tree/var/spool/mail" && chmod 01777 "$tree/odd" && chmod 0 "$tree/etc/audit.h"
    cp /bin/true "$tree/bin/su" && chmod 04755 "$tree/bin/su"
    ln -s /etc/passwd "$tree/etc/absolute" && ln -s ../missing "$tree/etc/dangling"
    for i in 1 2 3; do ln "$tree/bin/su" "$tree/bin/su$i"; done
    truncate -s 10M "$tree/var/holes" && printf x | dd of="$tree/var/holes" bs=1 seek=5000000 conv=notrunc status=none
    mkfifo "$tree/var/fifo"
    for i in $'new\nline' 'two  spaces' -dash $'\xff\xfe' "$(printf 'n%.0s' {1..255})"; do echo "$i" >"$tree/odd/$i"; done
    for i in "$tree"/etc/b*.h; do setfattr -n user.origin -v "$i" "$i"; done
    touch -d '1999-12-31 23:59:59.123456789 UTC' "$tree/etc" "$tree/bin/su"
}
add_acls() {
    setfacl -m u:12345:rw,g:12346:r "$1"/etc/c*.h && setfacl -d -m u:12345:rwx,g::r "$1/home/alice"
}
attributes() { (cd "$1" && getfattr -R -h -d -m - --absolute-names . | LC_ALL=C sort && getfacl -R -n -P --absolute-names . | LC_ALL=C sort); }
same_attributes() { diff <(attributes "$1") <(attributes "$2"); }

real_tree() {
    need tar
    local copies=1 directory=linux n
    [[ $LONG != 1 ]] || copies=4 directory=.
    tar cf "$work/tree.tar" --format=posix -C "$source" "$directory"
    export_as ""
    for ((n = 1; n <= copies; n++)); do
        mkdir "$work/export/$n"
        check "tar unpacks a tree" tar xf "$work/tree.tar" -C "$work/export/$n"
        check "the host has it, with owners, modes and times" same_listing "$source/$directory" "$work/host/$n/$directory"
        check "  and its content" same_content "$source/$directory" "$work/host/$n/$directory"
        check "as the export shows it" same_content "$source/$directory" "$work/export/$n/$directory"
    done
    echo "        $(find "$work/host" | wc -l) files"
    check "rm removes it" rm -r "$work"/export/*
    expect_equal "and nothing is left" "$(ls -A "$work/host")" ""
    end_export
}

real_build() {
    need cmake ninja
    # Without tests and their data; without git where the source is no clone.
    tar cf "$work/source.tar" -C "$top" --exclude=./build --exclude=./.git --exclude=./tests .
    export_as ""
    mkdir "$work/export/source"
    tar xf "$work/source.tar" -C "$work/export/source"
    local targets=(cowcore/CMakeFiles/cowcore.dir/{cow_layout,human_units}.cpp.o)
    [[ $LONG != 1 ]] || targets=(cowfs)
    check "cmake configures cowfs itself" cmake -S "$work/export/source" -B "$work/export/build" -G Ninja \
        -DCOWFS_TESTS=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0
    check "ninja builds it" ninja -C "$work/export/build" "${targets[@]}"
    expect_equal "and finds nothing more to do" \
        "$(ninja -C "$work/export/build" "${targets[@]}" | tail -n 1)" "ninja: no work to do."
    [[ $LONG != 1 ]] || check "what was built runs" "$work/export/build/cli/cowfs" --version
    touch "$work/host/source/cowcore/human_units.cpp"
    # A change on the host is seen after a second at the latest.
    sleep 1.1
    # Not into a pipe: grep would end at the first match, and ninja go on.
    ninja -v -C "$work/export/build" "${targets[@]}" >"$work/again" 2>&1
    check "a change on the host is built again" grep -q human_units "$work/again"
    end_export
}

real_git() {
    need git
    export_as ""
    local repository=$work/export/repository
    run_git() { git -C "$repository" -c user.name=x -c user.email=x -c gc.auto=0 "$@"; }
    is_clean() { equal "$(run_git status --porcelain)" ""; }
    git init -q -b main "$repository"
    cp -r "$source/linux" "$repository/tree"
    check "git add" run_git add .
    check "git commit" run_git commit -qm one
    check "git status shows nothing" is_clean
    check "a change on a branch" eval 'run_git checkout -qb other &&
        find "$repository/tree" -name "a*.h" -exec sed -i "1i // new" {} + && rm -r "$repository/tree/netfilter" &&
        run_git mv tree/usb tree/moved && run_git commit -qam two'
    check "git checkout, there and back" eval 'run_git checkout -q main && run_git checkout -q other && is_clean'
    check "git checkout of one" run_git checkout -q main
    check "the tree is that of the beginning" same_content "$source/linux" "$work/host/repository/tree"
    check "git gc" run_git gc -q --prune=now
    check "git fsck" run_git fsck --full --strict
    check "git status shows nothing" is_clean
    check "git on the host shows nothing" equal "$(git -C "$work/host/repository" status --porcelain)" ""
    check "  and finds nothing wrong" git -C "$work/host/repository" fsck --full
    check "git clone" git clone -q "$repository" "$work/export/clone"
    check "the clone is the same" same_content "$source/linux" "$work/host/clone/tree"
    end_export
}

real_rsync() {
    need rsync setfacl setfattr
    make_mixed_tree "$work/tree"
    add_acls "$work/tree"
    export_as xattrs=acl
    local to=(rsync -aHAX --numeric-ids --sparse)
    nothing_to_do() { equal "$("${to[@]}" -c --dry-run --itemize-changes --delete "$1/" "$2/")" ""; }
    check "rsync there" "${to[@]}" "$work/tree/" "$work/export/tree/"
    check "  by checksum there is nothing to do" nothing_to_do "$work/tree" "$work/export/tree"
    check "  nor on the host" nothing_to_do "$work/tree" "$work/host/tree"
    check "rsync back" "${to[@]}" "$work/export/tree/" "$work/back/"
    check "  by checksum there is nothing to do" nothing_to_do "$work/tree" "$work/back"
    rm "$work/tree/etc/"c*.h && echo new >"$work/tree/etc/new" && chmod 0600 "$work/tree/etc/bpf.h"
    check "rsync --delete of changes" "${to[@]}" --delete "$work/tree/" "$work/export/tree/"
    check "  by checksum there is nothing to do" nothing_to_do "$work/tree" "$work/host/tree"
    end_export
}

real_tar() {
    need tar setfacl setfattr
    make_mixed_tree "$work/tree"
    add_acls "$work/tree"
    export_as xattrs=acl
    local tar=(tar --format=posix --xattrs --acls --numeric-owner --sparse)
    mkdir "$work/export/tree" "$work/back"
    check "tar --xattrs --acls into the export" \
        eval '"${tar[@]}" -c -C "$work/tree" . | "${tar[@]}" -xp -C "$work/export/tree"'
    check "  and out of it" eval '"${tar[@]}" -c -C "$work/export/tree" . | "${tar[@]}" -xp -C "$work/back"'
    for place in export/tree host/tree back; do
        check "$place has the same files" same_listing "$work/tree" "$work/$place"
        check "  and the same attributes and ACLs" same_attributes "$work/tree" "$work/$place"
        check "  and the same bytes" cmp "$work/tree/var/holes" "$work/$place/var/holes"
    done
    check "holes are holes" test "$(stat -c %b "$work/host/tree/var/holes")" -lt 100
    end_export
}

# A guest's root unpacks a system tree, and on the host it is an ordinary user's files.
real_system() {
    need tar setfattr
    make_mixed_tree "$work/tree"
    mknod "$work/tree/var/null" c 1 3
    mkdir "$work/host"
    chmod 0755 "$work"
    chown 12347:12347 "$work/host"
    export_as as=12347:12347,metadata=xattr
    local tar=(tar --format=posix --xattrs --numeric-owner)
    mkdir "$work/export/tree"
    check "tar unpacks owners, modes and devices" \
        eval '"${tar[@]}" -c -C "$work/tree" . | "${tar[@]}" -xp -C "$work/export/tree"'
    check "as they were" same_listing "$work/tree" "$work/export/tree"
    check "with their attributes" diff <(cd "$work/tree" && getfattr -R -h -d . | LC_ALL=C sort) \
        <(cd "$work/export/tree" && getfattr -R -h -d . | LC_ALL=C sort)
    expect_equal "the device is one" "$(stat -c '%F %t:%T' "$work/export/tree/var/null")" "character special file 1:3"
    expect_equal "on the host all is the user's" "$(find "$work/host" -mindepth 1 ! -user 12347 | wc -l)" 0
    expect_equal "  with nothing but files and directories" "$(find "$work/host" ! -type f ! -type d | wc -l)" 0
    expect_equal "  of no special mode" "$(find "$work/host" -mindepth 1 -perm /7077 | wc -l)" 0
    end_export
    export_as as=12347:12347,metadata=xattr
    check "it is there when it is exported again" same_listing "$work/tree" "$work/export/tree"
    end_export
}

# Makes, moves and removes files of its own names ($2) until it is ended.
stir() {
    local i=0
    while :; do
        i=$(((i + 1) % 50))
        mkdir -p "$1/$2$i/e" && echo "$i" >"$1/$2$i/e/f" && mv "$1/$2$i" "$1/moved-$2$i"
        rm -rf "$1/moved-$2$(((i + 25) % 50))"
    done
}

real_find() {
    cp -r "$source/linux" "$work/tree"
    mkdir -p "$work/host"
    cp -r "$work/tree" "$work/host/still"
    export_as ""
    mkdir "$work/host/stirred"
    local still i
    still=$(find "$work/host/still" | wc -l)
    background stir "$work/export/stirred" by-export
    local by_export=$background
    background stir "$work/host/stirred" by-host
    for i in {1..15}; do
        find "$work/export" -ls >"$work/found" 2>"$work/complaints" || true
        expect_equal "find, while files change ($i): what does not change is found, once" \
            "$(grep -c "$work/export/still" "$work/found")" "$still"
        # What is gone by the time that it is looked at; on the host find says the same.
        expect_equal "  and nothing is wrong" "$(grep -v "stirred/.*No such file or directory" "$work/complaints" || true)" ""
    done
    end_background "$background"
    end_background "$by_export"
    check "then both see the same" eval 'sleep 1.1; same_listing "$work/host" "$work/export"'
    end_export
}

case ${1:-} in
tree | build | git | rsync | tar | system | find) "real_$1" ;;
*) fail "usage: $0 tree|build|git|rsync|tar|system|find" ;;
esac
