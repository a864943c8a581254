#include "tests/integration/posix/side.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <set>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"

namespace cowfs::tests::posix {

namespace fs = boost::filesystem;

namespace {

/// As another user, in this thread alone: libc's functions would change all.
class ActingAs {
 public:
  explicit ActingAs(const User& user) {
    if (user.uid == 0) return;
    if (::syscall(SYS_setgroups, user.groups.size(), user.groups.data()) != 0 ||
        ::syscall(SYS_setresgid, user.uid, user.uid, 0) != 0 ||
        ::syscall(SYS_setresuid, user.uid, user.uid, 0) != 0) {
      throw std::system_error(errno, std::generic_category(), "become another user");
    }
    other_ = true;
  }
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;
  ~ActingAs() {
    if (!other_) return;
    const int error = errno;
    const bool back = ::syscall(SYS_setresuid, 0, 0, 0) == 0 &&
                      ::syscall(SYS_setresgid, 0, 0, 0) == 0 &&
                      ::syscall(SYS_setgroups, 0, nullptr) == 0;
    if (!back) std::abort();
    errno = error;
  }

 private:
  bool other_ = false;
};

void require(long result) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), "fill a directory");
}

}  // namespace

Side::Side(fs::path directory)
    : path_(std::move(directory)),
      directory_(open_file(path_, O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
      buffer_(std::make_unique<Buffer>()) {
  fill();
  keep(0, ::openat(directory_.get(), "a", O_RDWR | O_CLOEXEC));
  keep(1, ::openat(directory_.get(), "b", O_RDWR | O_CLOEXEC));
  keep(2, ::openat(directory_.get(), "a", O_RDONLY | O_CLOEXEC));
}

void Side::fill() const {
  const int at = directory();
  const auto before = ::umask(0);
  const auto file = [&](const char* name, mode_t mode, uid_t owner, std::size_t size) {
    put_content(path_ / name, std::string(size, 'x'));
    require(::chmod((path_ / name).c_str(), mode));
    require(::lchown((path_ / name).c_str(), owner, owner));
    const std::array times{timespec{1000, 1}, timespec{2000, 2}};
    require(::utimensat(at, name, times.data(), 0));
  };
  require(::fchmod(at, 0777));
  require(::mkdirat(at, "d", 0777));
  require(::fchownat(at, "d", users[1].uid, users[1].uid, 0));
  require(::fchmodat(at, "d", 02775, 0));
  require(::mkdirat(at, "sticky", 01777));
  require(::fchmodat(at, "sticky", 01777, 0));
  file("a", 0664, users[1].uid, 10000);
  file("b", 0600, 0, 5000);
  file("d/b", 0666, users[2].uid, 100);
  file("sticky/a", 0666, users[1].uid, 1);
  require(::symlinkat("a", at, "link"));
  require(::symlinkat("d", at, "dirlink"));
  require(::symlinkat("loop", at, "loop"));
  require(::symlinkat("missing", at, "dangling"));
  ::umask(before);
}

long Side::keep(std::size_t index, int fd) {
  if (fd < 0) return -1;
  slots_.at(index) = core::FileDescriptor(fd);
  return 0;
}

Outcome Side::perform(const Call& call) {
  const auto before = ::umask(call.umask);
  Outcome outcome{};
  {
    const ActingAs user(users[call.user]);
    errno = 0;
    outcome.result = call.operation->perform(*this, call, outcome.read);
    outcome.error = outcome.result < 0 ? errno : 0;
  }
  ::umask(before);
  return outcome;
}

// --- state ---

namespace {

std::string time_text(const timespec& time) {
  if (time.tv_sec > times_set_until) return "now";
  return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
}

std::string attributes_text(const fs::path& path) {
  std::array<char, 4096> list{};
  const auto length = ::llistxattr(path.c_str(), list.data(), list.size());
  if (length < 0) return ::strerrorname_np(errno);
  std::set<std::string> lines;
  for (const char* name = list.data(); name < list.data() + length; name += std::strlen(name) + 1) {
    std::array<char, 4096> value{};
    const auto size = ::lgetxattr(path.c_str(), name, value.data(), value.size());
    if (std::string_view(name).starts_with("user.cowfs.")) continue;
    lines.insert(
        fmt::format("{}={}", name,
                    std::string_view(value.data(), size < 0 ? 0 : static_cast<std::size_t>(size))));
  }
  return fmt::format("{}", fmt::join(lines, ","));
}

/// Of a file that is larger than what is ever written: where the data are.
std::string content_text(const fs::path& path, const struct stat& status) {
  const auto file = open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  std::string text(static_cast<std::size_t>(std::min<off_t>(status.st_size, 100000)), '\0');
  const auto count = ::pread(file.get(), text.data(), text.size(), 0);
  if (count != static_cast<ssize_t>(text.size())) return fmt::format("read gave {}", count);
  return fmt::format("{:x}", std::hash<std::string>{}(text));
}

std::string entry_text(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return ::strerrorname_np(errno);
  auto text = line_of(status) + " [" + attributes_text(path) + "]";
  if (S_ISREG(status.st_mode)) text += " content " + content_text(path, status);
  if (S_ISLNK(status.st_mode)) text += " to " + fs::read_symlink(path).string();
  return text;
}

}  // namespace

std::string line_of(const struct stat& status) {
  auto mode = status.st_mode;
  // Without group execution set-group-ID means nothing. Whether a write clears it depends on the
  // writer's groups, which FUSE does not tell.
  if (!S_ISDIR(mode) && (mode & S_IXGRP) == 0) mode &= ~static_cast<mode_t>(S_ISGID);
  return fmt::format("mode {:o} owner {}:{} links {} size {} device {}:{} mtime {}", mode,
                     status.st_uid, status.st_gid, status.st_nlink, status.st_size,
                     major(status.st_rdev), minor(status.st_rdev), time_text(status.st_mtim));
}

State state_of(const fs::path& directory) {
  State state{{".", entry_text(directory)}};
  for (fs::recursive_directory_iterator at(directory), end; at != end; ++at) {
    const auto name = at->path().lexically_relative(directory).string();
    state[name] = entry_text(at->path());
  }
  return state;
}

}  // namespace cowfs::tests::posix
