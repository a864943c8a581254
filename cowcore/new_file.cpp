#include "cowcore/new_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "cowcore/errors.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

namespace {

/// Not made of the wanted name: that may be as long as a name can be.
fs::path temporary_name(const fs::path& wanted) {
  return wanted.parent_path() / fs::unique_path(".cowfs-%%%%-%%%%-%%%%.tmp");
}

std::string directory_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path().string() : ".";
}

[[noreturn]] void throw_cannot_create(const fs::path& wanted) {
  if (errno == ENOENT || errno == ENOTDIR) {
    throw Error(wanted.string(), fmt::format("there is no directory {}", directory_of(wanted)),
                "make it first, or give another place");
  }
  throw_errno(wanted.string(), "cannot create");
}

std::unique_ptr<PosixStorage> lock_replaced(const fs::path& file) {
  std::unique_ptr<PosixStorage> old;
  try {
    old = PosixStorage::open(file, Access::read_write, FileKinds::regular);
  } catch (const std::system_error& error) {
    // A file that may not be written can be replaced all the same; mind those who read it.
    if (error.code().value() != EACCES && error.code().value() != EPERM) throw;
    old = PosixStorage::open(file, Access::read_only, FileKinds::regular);
    old->lock(LockKind::shared);
    return old;
  }
  old->lock(LockKind::exclusive);
  return old;
}

}  // namespace

NewFile::NewFile(const fs::path& wanted, mode_t mode, Naming naming) : wanted_(wanted) {
  if (naming == Naming::temporary) {
    make_named(mode);
    return;
  }
  FileDescriptor fd(
      ::open(directory_of(wanted).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, mode & 0777U));
  if (fd) {
    file_ = std::make_unique<PosixStorage>(std::move(fd), wanted.string());
  } else if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL) {
    make_named(mode);
  } else {
    throw_cannot_create(wanted);
  }
}

void NewFile::make_named(mode_t mode) {
  auto name = temporary_name(wanted_);
  FileDescriptor fd(::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode & 0777U));
  if (!fd) throw_cannot_create(wanted_);
  temporary_ = std::move(name);
  file_ = std::make_unique<PosixStorage>(std::move(fd), wanted_.string());
}

NewFile::~NewFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void NewFile::imitate(const FileStatus& status) {
  const int fd = file_->descriptor();
  if (::fchown(fd, status.owner, status.group) != 0 &&
      ::fchown(fd, static_cast<uid_t>(-1), status.group) != 0) {
    // Then it stays ours, as a file that cp makes.
  }
  if (::fchmod(fd, status.mode & 0777U) != 0) throw_errno(wanted_.string(), "cannot set the mode");
}

void NewFile::link_to(const fs::path& name) {
  const auto link = fmt::format("/proc/self/fd/{}", file_->descriptor());
  if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    throw_errno(wanted_.string(), "cannot create");
  }
}

void NewFile::publish(IfExists if_exists) {
  if (temporary_.empty() && if_exists == IfExists::refuse) {
    link_to(wanted_);
  } else {
    if (temporary_.empty()) {
      auto name = temporary_name(wanted_);
      link_to(name);
      temporary_ = std::move(name);
    }
    const unsigned flags = if_exists == IfExists::refuse ? RENAME_NOREPLACE : 0;
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, wanted_.c_str(), flags) != 0) {
      throw_errno(wanted_.string(), "cannot create");
    }
    temporary_.clear();
  }
  sync_directory(directory_of(wanted_));
}

void sync_directory(const fs::path& directory) {
  const FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) throw_errno(directory.string(), "cannot sync the directory");
}

OutputPlace choose_output(const fs::path& wanted, IfExists if_exists,
                          const std::vector<InputFile>& inputs) {
  struct stat found {};
  if (::stat(wanted.c_str(), &found) == 0) {
    for (const auto& input : inputs) {
      if (input.identity == FileIdentity{found.st_dev, found.st_ino}) {
        throw Error(wanted.string(), fmt::format("is {} itself", input.what), "give another name");
      }
    }
  }
  if (!fs::exists(fs::symlink_status(wanted))) return {fs::absolute(wanted), nullptr};
  if (if_exists == IfExists::refuse) {
    throw Error(wanted.string(), "exists", "give another name, or --force to replace it");
  }
  auto replaced = lock_replaced(wanted);
  return {fs::canonical(wanted), std::move(replaced)};
}

}  // namespace cowfs::core
