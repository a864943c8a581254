#include "cli/mounted.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libmount.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <charconv>
#include <memory>
#include <string_view>
#include <system_error>

#include "cowcore/errors.hpp"

namespace cowfs::cli {
namespace {

namespace fs = boost::filesystem;

constexpr std::string_view image_type = "fuse.cowfs";
constexpr std::string_view export_type = "fuse.cowfs-export";

struct UnrefTable {
  void operator()(libmnt_table* table) const { mnt_unref_table(table); }
};

/// The mount on top at this place; null if there is none of ours.
libmnt_fs* cowfs_mount_at(libmnt_table* table, const fs::path& target) {
  auto* found = mnt_table_find_target(table, target.c_str(), MNT_ITER_BACKWARD);
  const char* type = found != nullptr ? mnt_fs_get_fstype(found) : nullptr;
  return type != nullptr && (std::string_view(type) == image_type || type == export_type) ? found
                                                                                          : nullptr;
}

}  // namespace

Mounted find_mount(const fs::path& mount_point) {
  const std::unique_ptr<libmnt_table, UnrefTable> table(
      mnt_new_table_from_file("/proc/self/mountinfo"));
  if (!table) throw std::system_error(errno, std::generic_category(), "/proc/self/mountinfo");
  // The mount itself is looked at only if need be: its daemon may be dead or hang, or it may be
  // another user's.
  auto absolute = fs::absolute(mount_point);
  absolute.remove_trailing_separator();
  auto target = fs::canonical(absolute.parent_path()) / absolute.filename();
  auto* found = cowfs_mount_at(table.get(), target);
  if (found == nullptr) {
    boost::system::error_code unusable;
    target = fs::canonical(mount_point, unusable);
    found = unusable ? nullptr : cowfs_mount_at(table.get(), target);
  }
  if (found == nullptr) {
    throw core::Error(
        mount_point.string(), "is no cowfs mount point",
        "the mounts are listed in /proc/self/mountinfo, types fuse.cowfs and fuse.cowfs-export");
  }
  Mounted mounted{target, 0, mnt_fs_get_fstype(found) == export_type};
  char* value = nullptr;
  std::size_t length = 0;
  if (mnt_fs_get_option(found, "user_id", &value, &length) == 0) {
    std::from_chars(value, value + length, mounted.owner);
  }
  if (::geteuid() != 0 && ::getuid() != mounted.owner) {
    throw core::Error(mount_point.string(), "was mounted by another user",
                      "only that user and root may do this");
  }
  return mounted;
}

core::FileDescriptor open_for_control(const Mounted& mounted) {
  // Of an export nothing but the root: what lies in it is the guest's, a FIFO or a link perhaps.
  if (mounted.is_export) {
    return core::FileDescriptor(::open(mounted.target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  boost::system::error_code unusable;
  const bool is_directory = fs::is_directory(mounted.target, unusable);
  const auto file = is_directory ? mounted.target / "disk" : mounted.target;
  return core::FileDescriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
}

std::optional<fuse::DaemonStatus> ask_daemon(const core::FileDescriptor& control) {
  fuse::DaemonStatus status{};
  if (!control || ::ioctl(control.get(), fuse::get_daemon_status, &status) != 0)
    return std::nullopt;
  return status;
}

core::FileDescriptor hold_process(const Mounted& mounted, pid_t pid) {
  // Not by <sys/pidfd.h>: glibc 2.36's can't be used from C++.
  core::FileDescriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  struct stat status {};
  const auto entry = fmt::format("/proc/{}", pid);
  const bool is_owners =
      process && ::stat(entry.c_str(), &status) == 0 && status.st_uid == mounted.owner;
  return is_owners ? std::move(process) : core::FileDescriptor();
}

}  // namespace cowfs::cli
