#include "fuse/mount.hpp"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <libmount.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>

#include "cowcore/errors.hpp"

namespace cowfs::fuse {
namespace {

/// What libfuse says while it mounts; it has no other way to give a reason.
std::string& library_message() {
  static std::string message;
  return message;
}

void keep_message(fuse_log_level /*level*/, const char* format, va_list arguments) {
  std::array<char, 512> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  auto& message = library_message();
  if (!message.empty()) message += ' ';
  message += line.data();
  while (!message.empty() && message.back() == '\n') message.pop_back();
}

/// Takes what this process and those that it starts write to stderr. fusermount3, which libfuse
/// runs when a user is not root, gives its reasons there.
class CaughtErrors {
 public:
  CaughtErrors()
      : caught_(::memfd_create("errors", MFD_CLOEXEC)),
        stderr_(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    if (!caught_ || !stderr_ || ::dup2(caught_.get(), STDERR_FILENO) < 0) {
      throw std::system_error(errno, std::generic_category(), "cannot redirect stderr");
    }
  }
  CaughtErrors(const CaughtErrors&) = delete;
  CaughtErrors& operator=(const CaughtErrors&) = delete;
  ~CaughtErrors() { ::dup2(stderr_.get(), STDERR_FILENO); }

  /// On one line.
  [[nodiscard]] std::string text() const {
    std::array<char, 1024> buffer{};
    const auto count = ::pread(caught_.get(), buffer.data(), buffer.size(), 0);
    std::string text(buffer.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    std::ranges::replace(text, '\n', ' ');
    return text;
  }

 private:
  core::FileDescriptor caught_;
  core::FileDescriptor stderr_;
};

struct DestroySession {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};

/// libfuse takes options apart at commas; a comma or backslash in a name is written with a
/// backslash before it.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == ',' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string library_options(const MountOptions& options) {
  auto text =
      fmt::format("fsname={},subtype={},nodev,nosuid", escaped(options.source), options.subtype);
  if (options.default_permissions) text += ",default_permissions";
  if (options.read_only) text += ",ro";
  if (options.allow_other) text += ",allow_other";
  return text;
}

}  // namespace

core::FileDescriptor mount(const MountOptions& options) {
  // libfuse knows how to mount with and without root; a session that serves nothing borrows that,
  // and leaves the connection behind.
  static std::mutex one_at_a_time;  // for library_message
  const std::lock_guard guard(one_at_a_time);
  library_message().clear();
  fuse_set_log_func(keep_message);
  std::string program = "cowfs";
  std::string flag = "-o";
  std::string text = library_options(options);
  std::array arguments{program.data(), flag.data(), text.data()};
  fuse_args args{static_cast<int>(arguments.size()), arguments.data(), 0};
  const fuse_lowlevel_ops no_operations{};
  const std::unique_ptr<fuse_session, DestroySession> session(
      fuse_session_new(&args, &no_operations, sizeof no_operations, nullptr));
  bool mounted = false;
  std::string reason;
  {
    const CaughtErrors errors;
    mounted = session && fuse_session_mount(session.get(), options.mount_point.c_str()) == 0;
    reason = errors.text();
  }
  fuse_opt_free_args(&args);
  fuse_set_log_func(nullptr);
  if (!mounted) {
    if (reason.empty()) reason = library_message();
    throw core::Error(options.mount_point.string(), "cannot mount: " + reason);
  }
  core::FileDescriptor fd(::fcntl(fuse_session_fd(session.get()), F_DUPFD_CLOEXEC, 3));
  if (!fd) throw std::system_error(errno, std::generic_category(), "cannot keep /dev/fuse");
  return fd;
}

namespace {

struct UnrefTable {
  void operator()(libmnt_table* table) const { mnt_unref_table(table); }
};

/// The number of the mount on top there. Not by stat(2) on the mount, which could wait for the
/// daemon.
std::optional<dev_t> device_at(const boost::filesystem::path& mount_point) {
  const std::unique_ptr<libmnt_table, UnrefTable> table(
      mnt_new_table_from_file("/proc/self/mountinfo"));
  if (!table) return std::nullopt;
  auto* found = mnt_table_find_target(table.get(), mount_point.c_str(), MNT_ITER_BACKWARD);
  if (found == nullptr) return std::nullopt;
  return mnt_fs_get_devno(found);
}

/// Whether the kernel took it.
bool write_setting(const std::string& name, const std::string& value) {
  const core::FileDescriptor file(::open(name.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), value.data(), value.size()) >= 0;
}

/// Ends the connection, as its owner may.
void abort_connection(const boost::filesystem::path& mount_point) {
  const auto device = device_at(mount_point);
  if (!device) return;
  write_setting(fmt::format("/sys/fs/fuse/connections/{}/abort", minor(*device)), "1");
}

}  // namespace

void set_readahead(const boost::filesystem::path& mount_point, std::size_t bytes) {
  const auto device = device_at(mount_point);
  if (!device) return;
  write_setting(fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", major(*device), minor(*device)),
                fmt::format("{}", bytes / 1024));
}

void unmount(const boost::filesystem::path& mount_point, Detach detach) {
  const bool by_force = detach == Detach::by_force;
  if (::geteuid() == 0) {
    // The first call ends the connection, whether or not it can also unmount.
    if (by_force && ::umount2(mount_point.c_str(), UMOUNT_NOFOLLOW | MNT_FORCE) == 0) return;
    const int flags = UMOUNT_NOFOLLOW | (by_force ? MNT_DETACH : 0);
    if (::umount2(mount_point.c_str(), flags) == 0) return;
    throw std::system_error(errno, std::generic_category(),
                            mount_point.string() + ": cannot unmount");
  }
  if (by_force) abort_connection(mount_point);
  std::string program = "fusermount3";
  std::string flags = by_force ? "-uqz" : "-uq";
  std::string end = "--";
  std::string path = mount_point.string();
  std::array<char*, 5> arguments{program.data(), flags.data(), end.data(), path.data(), nullptr};
  pid_t child = 0;
  const int failure =
      ::posix_spawnp(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ);
  if (failure != 0) throw std::system_error(failure, std::generic_category(), "fusermount3");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) {
    throw std::system_error(EBUSY, std::generic_category(),
                            mount_point.string() + ": fusermount3 cannot unmount");
  }
}

void detach(const boost::filesystem::path& mount_point, Log& log) {
  try {
    unmount(mount_point, Detach::by_force);
  } catch (const std::system_error& error) {
    // EINVAL: somebody has unmounted it already.
    if (error.code().value() != EINVAL) log.warning(error.what());
  }
}

}  // namespace cowfs::fuse
