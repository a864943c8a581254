#include "cowcore/backing.hpp"

#include <fmt/format.h>

#include <boost/filesystem.hpp>

#include "cowcore/errors.hpp"
#include "cowcore/human_units.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

const char* state_name(BackingState state) {
  switch (state) {
    case BackingState::ok:
      return "ok";
    case BackingState::missing:
      return "missing";
    case BackingState::size_mismatch:
      return "size-mismatch";
    case BackingState::mtime_mismatch:
      return "mtime-mismatch";
  }
  return "unknown";
}

std::uint32_t header_mtime(const FileStatus& backing) {
  return static_cast<std::uint32_t>(backing.modified.tv_sec);
}

BackingState compare_backing(const CowHeader& header, const FileStatus& found) {
  if (header.backing_size != found.size) return BackingState::size_mismatch;
  if (header.backing_mtime != header_mtime(found)) return BackingState::mtime_mismatch;
  return BackingState::ok;
}

void require_match(const CowHeader& header, const FileStatus& found, const std::string& cow,
                   const std::string& backing) {
  switch (compare_backing(header, found)) {
    case BackingState::size_mismatch:
      throw BackingMismatch(
          cow,
          fmt::format("was made for a backing of {}, but {} has {}",
                      human_size(header.backing_size), backing, human_size(found.size)),
          "give the backing that it was made for, as COW,BACKING");
    case BackingState::mtime_mismatch:
      throw BackingMismatch(
          cow,
          fmt::format("was made for a backing last changed at {}, but {} was changed at {}",
                      human_time(header.backing_mtime), backing, human_time(header_mtime(found))),
          fmt::format("restore the backing; only if its content is surely the same, set its time "
                      "back: touch -m -d @{} {}",
                      header.backing_mtime, backing));
    case BackingState::ok:
    case BackingState::missing:
      return;
  }
}

fs::path stored_path(const fs::path& backing) {
  const auto absolute = fs::absolute(backing);
  return fs::canonical(absolute.parent_path()) / absolute.filename();
}

fs::path resolve_stored(const std::string& stored) {
  return stored.empty() ? fs::path() : fs::absolute(stored);
}

}  // namespace cowfs::core
