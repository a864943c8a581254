#include "hostfs/sandbox.hpp"

#include <cap-ng.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/mount.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>
#include <vector>

#include "cowcore/errors.hpp"
#include "hostfs/identity.hpp"
#include "hostfs/message.hpp"

// <sys/mount.h> of glibc 2.36 and <linux/mount.h> can't both be included.
extern "C" {
int mount(const char* source, const char* target, const char* type, unsigned long flags,
          const void* data);
int umount2(const char* target, int flags);
}

namespace cowfs::hostfs {
namespace {

constexpr int detach_mount = 2;                    // MNT_DETACH
constexpr unsigned long recursive = 1UL << 14;     // MS_REC
constexpr unsigned long private_tree = 1UL << 18;  // MS_PRIVATE

/// Does a step, and says which one it was if it fails.
template <typename Step>
auto perform(const char* what, Step&& step) {
  try {
    return step();
  } catch (const std::system_error& error) {
    throw core::Error("the sandbox", fmt::format("{}: {}", what, error.code().message()),
                      "see --sandbox in cowfs-export(1)");
  }
}

void check(long result) {
  if (result != 0) fail(errno);
}

core::FileDescriptor checked(long fd) {
  if (fd < 0) fail(errno);
  return core::FileDescriptor(static_cast<int>(fd));
}

core::FileDescriptor open_path(int directory, const char* name) {
  return checked(::openat(directory, name, O_PATH | O_CLOEXEC | O_DIRECTORY));
}

void require_same_file(int one, int other) {
  struct stat first {};
  struct stat second {};
  check(::fstat(one, &first));
  check(::fstat(other, &second));
  if (first.st_dev != second.st_dev || first.st_ino != second.st_ino) fail(ESTALE);
}

/// A copy of the directory's mount that is not yet anywhere.
core::FileDescriptor copy_tree(const boost::filesystem::path& path, int directory,
                               const ExportOptions& options) {
  constexpr unsigned copy = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  const auto open_tree = [&](unsigned flags) {
    return ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), flags);
  };
  long tree = open_tree(options.submounts ? copy | AT_RECURSIVE : copy);
  // In a user namespace what is mounted below can't be left out, since it may cover something; then
  // lookups stop before it (RESOLVE_NO_XDEV).
  if (tree < 0 && errno == EINVAL) tree = open_tree(copy | AT_RECURSIVE);
  auto made = checked(tree);
  require_same_file(made.get(), directory);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  if (options.read_only) attributes.attr_set |= MOUNT_ATTR_RDONLY;
  check(::syscall(SYS_mount_setattr, made.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                  sizeof attributes));
  return made;
}

/// A /proc of this PID namespace that is mounted nowhere.
core::FileDescriptor private_proc() {
  const auto context = checked(::syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC));
  // Only the processes, nothing of the kernel's (Linux 5.8).
  (void)::syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "subset", "pid", 0);
  check(::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  return checked(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC,
                           MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
}

core::FileDescriptor outer_proc() { return open_path(AT_FDCWD, "/proc"); }

/// Makes `tree` the root of this mount namespace, and takes the old one off.
void change_root(const boost::filesystem::path& path, int tree) {
  check(::syscall(SYS_move_mount, tree, "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH));
  check(::fchdir(tree));
  check(::syscall(SYS_pivot_root, ".", "."));
  check(::umount2(".", detach_mount));
  check(::chdir("/"));
}

void close_all_others(int last_kept, const Jail& jail) {
  std::vector<int> kept{jail.root.get(), jail.own_files.get(), jail.status.get(),
                        jail.mounts.get()};
  std::ranges::sort(kept);
  auto first = static_cast<unsigned>(last_kept) + 1;
  for (const int fd : kept) {
    if (static_cast<unsigned>(fd) > first) {
      check(::close_range(first, static_cast<unsigned>(fd) - 1, 0));
    }
    first = static_cast<unsigned>(fd) + 1;
  }
  check(::close_range(first, ~0U, 0));
}

void set_limits() {
  rlimit files{};
  check(::getrlimit(RLIMIT_NOFILE, &files));
  // A descriptor for each inode that the kernel knows. Root may raise the limit to fs.nr_open,
  // which is 2^20 unless somebody has changed it.
  const rlimit most{1U << 20, 1U << 20};
  if (files.rlim_max >= most.rlim_max || ::setrlimit(RLIMIT_NOFILE, &most) != 0) {
    files.rlim_cur = files.rlim_max;
    check(::setrlimit(RLIMIT_NOFILE, &files));
  }
  const rlimit none{0, 0};
  check(::setrlimit(RLIMIT_CORE, &none));
}

}  // namespace

namespace {

void write_file(const char* name, const std::string& text) {
  const auto file = checked(::open(name, O_WRONLY | O_CLOEXEC));
  if (::write(file.get(), text.data(), text.size()) < 0) fail(errno);
}

/// In its user namespace the user is who they are, and there is nobody else.
void map_own_user(uid_t uid, gid_t gid) {
  write_file("/proc/self/setgroups", "deny");
  write_file("/proc/self/uid_map", fmt::format("{} {} 1", uid, uid));
  write_file("/proc/self/gid_map", fmt::format("{} {} 1", gid, gid));
}

}  // namespace

void enter_namespaces(SandboxKind sandbox) {
  if (sandbox != SandboxKind::jail) return;
  const auto uid = ::geteuid();
  const auto gid = ::getegid();
  unsigned long flags =
      CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (uid != 0) flags |= CLONE_NEWUSER;
  const auto child =
      ::syscall(SYS_clone, flags | CLONE_PARENT | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  perform("cannot make namespaces", [&] { check(child < 0 ? -1 : 0); });
  if (child > 0) ::_exit(0);
  if (uid != 0) perform("cannot map its user", [&] { map_own_user(uid, gid); });
}

Jail enter_jail(const boost::filesystem::path& path, core::FileDescriptor directory,
                const ExportOptions& options, int last_kept) {
  Jail jail;
  core::FileDescriptor proc;
  if (options.sandbox == SandboxKind::jail) {
    perform("cannot make its mounts private",
            [&] { check(::mount(nullptr, "/", nullptr, recursive | private_tree, nullptr)); });
    jail.root = perform("cannot copy the directory's mount",
                        [&] { return copy_tree(path, directory.get(), options); });
    proc = perform("cannot make a /proc of its own", [] { return private_proc(); });
    perform("cannot change its root", [&] { change_root(path, jail.root.get()); });
    perform("has another root than it should have",
            [&] { require_same_file(open_path(AT_FDCWD, "/").get(), directory.get()); });
  } else {
    proc = perform("cannot open /proc", [] { return outer_proc(); });
    if (options.sandbox == SandboxKind::chroot) {
      perform("cannot change its root (chroot needs root)", [&] {
        check(::fchdir(directory.get()));
        check(::chroot("."));
        check(::chdir("/"));
      });
    }
    jail.root = std::move(directory);
  }
  perform("cannot look at itself", [&] {
    jail.own_files = open_path(proc.get(), "self/fd");
    jail.status = checked(::openat(proc.get(), "self/status", O_RDONLY | O_CLOEXEC));
    jail.mounts = checked(::openat(proc.get(), "self/mountinfo", O_RDONLY | O_CLOEXEC));
  });
  perform("cannot set its limits", set_limits);
  perform("cannot close what it was given", [&] { close_all_others(last_kept, jail); });
  return jail;
}

namespace {

void become(const Account& account) {
  check(::setgroups(account.groups.size(), account.groups.data()));
  check(::setresgid(account.gid, account.gid, account.gid));
  check(::setresuid(account.uid, account.uid, account.uid));
}

/// The bounding set by libcap-ng, then those of the process, and the ambient set.
void limit_capabilities(const WorkerCapabilities& needed) {
  capng_clear(CAPNG_SELECT_ALL);
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if ((needed.permitted >> capability & 1) != 0) {
      capng_update(CAPNG_ADD, CAPNG_BOUNDING_SET, static_cast<unsigned>(capability));
    }
  }
  if (capng_apply(CAPNG_SELECT_BOUNDS) < 0) fail(EPERM);
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  set_thread_capabilities(needed);
}

}  // namespace

void drop_privileges(const ExportOptions& options, bool is_root, const Jail& jail) {
  if (is_root) {
    // As whom a thread works changes with each request; its capabilities do not go with it.
    perform("cannot lock its secure bits", [] {
      check(::prctl(PR_SET_SECUREBITS,
                    SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NOROOT |
                        SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                        SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
                    0, 0, 0));
    });
    perform("cannot give up its groups",
            [&] { options.as ? become(*options.as) : check(::setgroups(0, nullptr)); });
  }
  perform("cannot give up its capabilities",
          [&] { limit_capabilities(needed_capabilities(options, is_root)); });
  // Should the process outside be gone, so is this one.
  perform("cannot bind itself to the daemon", [] { check(::prctl(PR_SET_PDEATHSIG, SIGKILL)); });
  perform("cannot give up new privileges", [] { check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); });
  perform("cannot restrict itself by Landlock",
          [&] { (void)restrict_by_landlock(jail.root.get(), options.devices); });
  perform("cannot install its seccomp filter", [] { install_seccomp_filter(); });
}

namespace {

std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> piece{};
  for (ssize_t count = 0;
       (count = ::pread(fd, piece.data(), piece.size(), static_cast<off_t>(text.size()))) > 0;) {
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
  return text;
}

}  // namespace

std::string describe_confinement(const Jail& jail) {
  const auto status = read_all(jail.status.get());
  std::string text;
  for (const std::string_view key :
       {"Uid:", "Gid:", "Groups:", "NSpid:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
        "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"}) {
    const auto begin = status.find(fmt::format("\n{}", key));
    if (begin == std::string::npos) continue;
    const auto end = status.find('\n', begin + 1);
    auto line = status.substr(begin + 1, end - begin - 1);
    std::ranges::replace(line, '\t', ' ');
    text += line + "\n";
  }
  const auto mounts = read_all(jail.mounts.get());
  text += fmt::format("Mounts in sight: {}\n", std::ranges::count(mounts, '\n'));
  return text;
}

}  // namespace cowfs::hostfs
