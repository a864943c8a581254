#include "cowcore/create_cow.hpp"

#include <array>
#include <memory>
#include <span>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

/// What may be replaced: anything else holds something that is no COW's.
void require_cow_or_empty(const PosixStorage& old) {
  std::array<std::byte, 4> start;
  const auto count = old.read(0, start);
  if (count != 0 && !has_cow_magic(std::span(start).first(count))) {
    throw Error(old.name(), "exists and is not a COW", "give another name, or remove it first");
  }
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
  const auto backing_file = open_backing(backing);
  const auto status = backing_file->status();
  const auto header = header_for(cow, backing, status);

  NewFile file(cow, if_exists);
  if (file.replaced() != nullptr) {
    require_cow_or_empty(*file.replaced());
    if (file.replaced()->status().identity == status.identity) {
      throw Error(cow.string(), "is the backing itself", "give another name");
    }
  }
  write_empty_cow(file.storage(), header);
  file.commit();
}

}  // namespace cowfs::core
