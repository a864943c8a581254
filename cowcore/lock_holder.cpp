#include "cowcore/lock_holder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <charconv>
#include <optional>
#include <system_error>

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

std::optional<pid_t> parse_pid(const std::string& name) {
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return pid;
}

std::string describe(pid_t pid) {
  fs::ifstream comm(fs::path("/proc") / std::to_string(pid) / "comm");
  std::string command;
  std::getline(comm, command);
  return command.empty() ? fmt::format("pid {}", pid) : fmt::format("{} (pid {})", command, pid);
}

/// An open-file-description lock has no owner that the kernel would name, but the fdinfo of each
/// descriptor lists the locks held through it, as "lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:42 0
/// EOF".
bool holds_lock(const fs::path& process, const std::string& fd, ino_t inode) {
  const auto wanted = fmt::format(":{} ", inode);
  fs::ifstream info(process / "fdinfo" / fd);
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("lock:", 0) == 0 && line.find(wanted) != std::string::npos) return true;
  }
  return false;
}

bool holds_lock_on(const fs::path& process, const struct stat& file) {
  boost::system::error_code ignored;
  for (fs::directory_iterator entry(process / "fd", ignored), end; entry != end;
       entry.increment(ignored)) {
    // Only what holds such a lock is looked at itself: another descriptor may belong to a file
    // system whose server does not answer, and looking would wait for it.
    if (!holds_lock(process, entry->path().filename().string(), file.st_ino)) continue;
    struct stat other {};
    if (::stat(entry->path().c_str(), &other) == 0 && other.st_dev == file.st_dev &&
        other.st_ino == file.st_ino) {
      return true;
    }
  }
  return false;
}

/// Whether a lock of somebody else conflicts with one of this kind.
bool is_in_the_way_of(int fd, short kind) {
  struct flock wanted {};
  wanted.l_type = kind;
  wanted.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_GETLK, &wanted) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot look at the locks of a file");
  }
  return wanted.l_type != F_UNLCK;
}

}  // namespace

std::string lock_holder(int fd) {
  struct flock wanted {};
  wanted.l_type = F_WRLCK;
  wanted.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK && wanted.l_pid > 0) {
    return describe(wanted.l_pid);
  }
  struct stat file {};
  if (::fstat(fd, &file) != 0) return {};
  boost::system::error_code ignored;
  for (fs::directory_iterator entry("/proc", ignored), end; entry != end;
       entry.increment(ignored)) {
    const auto pid = parse_pid(entry->path().filename().string());
    if (pid && *pid != ::getpid() && holds_lock_on(entry->path(), file)) return describe(*pid);
  }
  return {};
}

bool is_locked_for_writing(int fd) { return is_in_the_way_of(fd, F_RDLCK); }

bool is_locked(int fd) { return is_in_the_way_of(fd, F_WRLCK); }

}  // namespace cowfs::core
