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
#include "cowcore/file_descriptor.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

[[noreturn]] void throw_errno(const fs::path& path, const char* action) {
  throw std::system_error(errno, std::generic_category(),
                          fmt::format("{}: {}", path.string(), action));
}

void sync_directory(const fs::path& directory) {
  const FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) throw_errno(directory, "cannot sync the directory");
}

/// Opens and locks what is to be replaced, if there is something.
std::unique_ptr<PosixStorage> lock_replaced(const fs::path& wanted, IfExists if_exists) {
  if (!fs::exists(fs::symlink_status(wanted))) return nullptr;
  if (if_exists == IfExists::refuse) {
    throw Error(wanted.string(), "exists", "give another name, or --force to replace it");
  }
  auto old = PosixStorage::open(wanted, Access::read_write, FileKinds::regular);
  old->lock(LockKind::exclusive);
  return old;
}

}  // namespace

NewFile::NewFile(const fs::path& wanted, IfExists if_exists)
    : wanted_(wanted),
      if_exists_(if_exists),
      replaced_(lock_replaced(wanted, if_exists)),
      target_(replaced_ ? fs::canonical(wanted) : fs::absolute(wanted)),
      // Not made of the wanted name: that may be as long as a name can be.
      temporary_(target_.parent_path() / fs::unique_path(".cowfs-%%%%-%%%%-%%%%.tmp")) {
  FileDescriptor fd(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd && (errno == ENOENT || errno == ENOTDIR)) {
    throw Error(wanted.string(),
                fmt::format("there is no directory {}", target_.parent_path().string()),
                "make it first, or give another place");
  }
  if (!fd) throw_errno(wanted, "cannot create");
  storage_ = std::make_unique<PosixStorage>(std::move(fd), wanted.string());
}

NewFile::~NewFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void NewFile::commit() {
  storage_->sync();
  const unsigned flags = if_exists_ == IfExists::refuse ? RENAME_NOREPLACE : 0;
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), flags) != 0) {
    throw_errno(wanted_, "cannot create");
  }
  temporary_.clear();
  sync_directory(target_.parent_path());
}

}  // namespace cowfs::core
