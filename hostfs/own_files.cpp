#include "hostfs/own_files.hpp"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {

OwnFileName::OwnFileName(int fd) {
  std::to_chars(text_.data(), text_.data() + text_.size() - 1, fd);
}

core::FileDescriptor OwnFiles::reopen(int fd, int flags) const {
  core::FileDescriptor file(
      ::openat(directory_.get(), OwnFileName(fd).c_str(), flags | O_CLOEXEC | O_NOCTTY));
  if (!file) fail(errno);
  return file;
}

std::string OwnFiles::path_of(int fd) const {
  std::array<char, PATH_MAX> path{};
  const auto length =
      ::readlinkat(directory_.get(), OwnFileName(fd).c_str(), path.data(), path.size());
  if (length < 0) fail(errno);
  return {path.data(), static_cast<std::size_t>(length)};
}

void OwnFiles::enter() const {
  if (::unshare(CLONE_FS) != 0) fail(errno);
  if (::fchdir(directory_.get()) != 0) fail(errno);
  ::umask(0);
}

}  // namespace cowfs::hostfs
