#include "cowcore/create_cow.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

[[noreturn]] void throw_errno(const fs::path& path, const char* action) {
  throw std::system_error(errno, std::generic_category(),
                          fmt::format("{}: {}", path.string(), action));
}

/// Removes the file under its temporary name unless it got its own.
class TemporaryFile {
 public:
  explicit TemporaryFile(const fs::path& wanted)
      // Not made of the wanted name: that may be as long as a name can be.
      : path_(wanted.parent_path() / fs::unique_path(".cowfs-%%%%-%%%%-%%%%.tmp")) {
    FileDescriptor fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd) throw_errno(wanted, "cannot create");
    file_ = std::make_unique<PosixStorage>(std::move(fd), wanted.string());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  PosixStorage& file() { return *file_; }

  void rename_to(const fs::path& wanted, IfExists if_exists) {
    const unsigned flags = if_exists == IfExists::refuse ? RENAME_NOREPLACE : 0;
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, wanted.c_str(), flags) != 0) {
      throw_errno(wanted, "cannot create");
    }
    path_.clear();
  }

 private:
  fs::path path_;
  std::unique_ptr<PosixStorage> file_;
};

void sync_directory(const fs::path& directory) {
  const FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) throw_errno(directory, "cannot sync the directory");
}

/// Returns the file that is to be replaced, locked, so that nobody starts to use it meanwhile.
std::unique_ptr<PosixStorage> lock_replaced(const fs::path& cow) {
  auto old = PosixStorage::open(cow, Access::read_write, FileKinds::regular);
  std::array<std::byte, 4> start;
  const auto count = old->read(0, start);
  if (count != 0 && !has_cow_magic(std::span(start).first(count))) {
    throw Error(cow.string(), "exists and is not a COW", "give another name, or remove it first");
  }
  old->lock(LockKind::exclusive);
  return old;
}

CowHeader header_for(const fs::path& cow, const fs::path& backing, const FileStatus& status) {
  CowHeader header;
  header.backing_mtime = header_mtime(status);
  header.backing_size = status.size;
  header.backing_path = stored_path(backing).string();
  if (header.backing_path.size() > longest_backing_path(header.format)) {
    throw Error(cow.string(), "the path of the backing is too long for a header",
                "use a shorter path");
  }
  return header;
}

}  // namespace

void write_empty_cow(Storage& file, const CowHeader& header) {
  const auto layout = compute_layout(header, file.name());
  file.write(0, serialize_header(header));
  // As uml_mkcow: the file ends where the backing's own bytes would, not at a whole sector.
  file.resize(layout.data_offset + header.backing_size);
  file.sync();
}

void create_cow(const fs::path& cow, const fs::path& backing, IfExists if_exists) {
  const auto backing_file =
      PosixStorage::open(backing, Access::read_only, FileKinds::regular_or_block);
  const auto status = backing_file->status();
  const auto header = header_for(cow, backing, status);

  std::unique_ptr<PosixStorage> replaced;
  if (fs::exists(fs::symlink_status(cow))) {
    if (if_exists == IfExists::refuse) {
      throw Error(cow.string(), "exists", "give another name, or --force to make it empty");
    }
    replaced = lock_replaced(cow);
    if (replaced->status().identity == status.identity) {
      throw Error(cow.string(), "is the backing itself", "give another name");
    }
  }
  const auto target = replaced ? fs::canonical(cow) : fs::absolute(cow);
  TemporaryFile temporary(target);
  write_empty_cow(temporary.file(), header);
  temporary.rename_to(target, if_exists);
  sync_directory(target.parent_path());
}

}  // namespace cowfs::core
