#include "cowcore/cow_info.hpp"

#include "cowcore/cow_description.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/lock_holder.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/sector_map.hpp"

namespace cowfs::core {
namespace {

void look_at_backing(CowInfo& info) {
  if (info.backing.empty()) return;
  try {
    const auto status =
        PosixStorage::open(info.backing, Access::read_only, FileKinds::regular_or_block)->status();
    info.present_size = status.size;
    info.present_mtime = header_mtime(status);
    info.backing_state = compare_backing(info.header, status);
  } catch (const std::exception&) {
    info.backing_state = BackingState::missing;
  }
}

}  // namespace

CowInfo inspect_cow(const boost::filesystem::path& cow) {
  const auto file = PosixStorage::open(cow, Access::read_only, FileKinds::regular);
  const auto found = describe_cow(*file);
  CowInfo info;
  info.header = found.header;
  info.layout = found.layout;
  info.backing = resolve_stored(found.header.backing_path);
  look_at_backing(info);
  info.in_use = is_locked_for_writing(file->descriptor());
  if (info.in_use) info.user = lock_holder(file->descriptor());
  if (const auto directory = run_directory(); directory && !info.in_use) {
    const auto left = find_left_behind(*directory, *file, found);
    if (left.state != LeftBehind::State::stale) info.left_behind = left.sectors;
  }
  info.sectors_in_cow = SectorMap(*file, found.layout).count();
  const auto status = file->status();
  info.file_size = status.size;
  info.allocated = status.allocated;
  return info;
}

}  // namespace cowfs::core
