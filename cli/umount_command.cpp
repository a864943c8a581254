#include <fcntl.h>
#include <fmt/format.h>
#include <libmount.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <charconv>
#include <memory>
#include <string_view>
#include <system_error>

#include "cli/command.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/file_descriptor.hpp"
#include "fuse/control.hpp"
#include "fuse/mount.hpp"

namespace cowfs::cli {
namespace {

namespace fs = boost::filesystem;

struct UnrefTable {
  void operator()(libmnt_table* table) const { mnt_unref_table(table); }
};

/// A cowfs mount as the kernel's table shows it.
struct Mounted {
  fs::path target;
  uid_t owner = 0;
};

/// The name in the kernel's table. A mount whose daemon is dead, or that belongs to another user,
/// can't be looked at; then the last part of the name is taken as it is.
fs::path resolve(const fs::path& mount_point) {
  boost::system::error_code unusable;
  const auto target = fs::canonical(mount_point, unusable);
  if (!unusable) return target;
  auto absolute = fs::absolute(mount_point);
  absolute.remove_trailing_separator();
  return fs::canonical(absolute.parent_path()) / absolute.filename();
}

Mounted find_mount(const fs::path& mount_point) {
  const auto target = resolve(mount_point);
  const std::unique_ptr<libmnt_table, UnrefTable> table(
      mnt_new_table_from_file("/proc/self/mountinfo"));
  if (!table) throw std::system_error(errno, std::generic_category(), "/proc/self/mountinfo");
  auto* found = mnt_table_find_target(table.get(), target.c_str(), MNT_ITER_BACKWARD);
  const char* type = found != nullptr ? mnt_fs_get_fstype(found) : nullptr;
  if (type == nullptr || std::string_view(type) != "fuse.cowfs") {
    throw core::Error(mount_point.string(), "is no cowfs mount point",
                      "the mounts are listed in /proc/self/mountinfo, type fuse.cowfs");
  }
  Mounted mounted{target, 0};
  char* value = nullptr;
  std::size_t length = 0;
  if (mnt_fs_get_option(found, "user_id", &value, &length) == 0) {
    std::from_chars(value, value + length, mounted.owner);
  }
  return mounted;
}

/// The daemon behind a mount, kept so that its end can be awaited.
class Daemon {
 public:
  /// Finds it and asks it to put everything on disk. A daemon that is dead already is no error.
  explicit Daemon(const Mounted& mounted) {
    boost::system::error_code unusable;
    const bool is_directory = fs::is_directory(mounted.target, unusable);
    const auto file = is_directory ? mounted.target / "disk" : mounted.target;
    const core::FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return;
    fuse::DaemonStatus status{};
    if (::ioctl(fd.get(), fuse::get_daemon_status, &status) == 0) hold(status.pid, mounted.owner);
    if (::fsync(fd.get()) != 0) sync_error_ = errno;
  }

  [[nodiscard]] int sync_error() const { return sync_error_; }

  void wait_for_end() const {
    if (!process_) return;
    pollfd wait{process_.get(), POLLIN, 0};
    while (::poll(&wait, 1, -1) < 0 && errno == EINTR) {
    }
  }

 private:
  /// The number comes from the mount, which a user may serve with a program of their own: only a
  /// process of the mount's owner is believed, or we could be made to wait for any other.
  void hold(pid_t pid, uid_t owner) {
    // Not by <sys/pidfd.h>: glibc 2.36's can't be used from C++.
    core::FileDescriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    struct stat status {};
    const auto entry = fmt::format("/proc/{}", pid);
    if (process && ::stat(entry.c_str(), &status) == 0 && status.st_uid == owner) {
      process_ = std::move(process);
    }
  }

  core::FileDescriptor process_;
  int sync_error_ = 0;
};

int umount(const std::string& mount_point) {
  const auto mounted = find_mount(mount_point);
  if (::geteuid() != 0 && ::getuid() != mounted.owner) {
    throw core::Error(mount_point, "was mounted by another user",
                      "only that user and root may unmount it");
  }
  const Daemon daemon(mounted);
  try {
    fuse::unmount(mounted.target, fuse::Detach::if_idle);
  } catch (const std::system_error& error) {
    if (error.code().value() != EBUSY) throw;
    throw core::Busy(mount_point, "in use",
                     fmt::format("close what uses it; `fuser -vm {}` tells what", mount_point));
  }
  daemon.wait_for_end();
  if (daemon.sync_error() != 0) {
    throw std::system_error(daemon.sync_error(), std::generic_category(),
                            mount_point + ": unmounted, but not all writes are on disk");
  }
  return exit_done;
}

}  // namespace

void add_umount_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  const auto mount_point = std::make_shared<std::string>();
  auto* command = app.add_subcommand(
      "umount", "Unmount; returns when everything is on disk and the daemon is gone");
  command->add_option("MOUNTPOINT", *mount_point, "Where the image is mounted")->required();
  command->callback(
      [&chosen, mount_point] { chosen = [mount_point] { return umount(*mount_point); }; });
}

}  // namespace cowfs::cli
