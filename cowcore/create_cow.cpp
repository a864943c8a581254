#include "cowcore/create_cow.hpp"

#include <sys/stat.h>

#include <array>
#include <boost/filesystem.hpp>
#include <memory>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

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

std::unique_ptr<PosixStorage> open_backing(const fs::path& backing) {
  try {
    return PosixStorage::open(backing, Access::read_only, FileKinds::regular_or_block);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::no_such_file_or_directory &&
        error.code() != std::errc::not_a_directory) {
      throw;
    }
    throw BackingMismatch(backing.string(), "there is no such backing",
                          "give an image that is there; `cowfs mkimage` makes one");
  }
}

}  // namespace

CowHeader header_for_backing(const fs::path& cow, const fs::path& backing,
                             const FileStatus& status) {
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

void write_empty_cow(Storage& file, const CowHeader& header) {
  const auto layout = compute_layout(header, file.name());
  file.write(0, serialize_header(header));
  // As uml_mkcow: the file ends where the backing's own bytes would, not at a whole sector.
  file.resize(layout.data_offset + header.backing_size);
  file.sync();
}

void create_cow(const fs::path& cow, const fs::path& backing, IfExists if_exists) {
  const auto backing_file = open_backing(backing);
  const auto status = backing_file->status();
  const auto header = header_for_backing(cow, backing, status);

  if (!S_ISBLK(status.mode)) refuse_unfinished_merge(cow, header, backing, *backing_file);

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
  NewFile made(target, 0666);
  write_empty_cow(made.file(), header);
  made.publish(if_exists);
}

}  // namespace cowfs::core
