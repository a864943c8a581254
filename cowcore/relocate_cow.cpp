#include "cowcore/relocate_cow.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/lock_holder.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/open_cow.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

std::unique_ptr<PosixStorage> open_backing(const fs::path& backing, const std::string& cow) {
  try {
    return PosixStorage::open(backing, Access::read_only, FileKinds::regular_or_block);
  } catch (const std::system_error& error) {
    throw BackingMismatch(
        cow,
        fmt::format("cannot open the backing {}: {}", backing.string(), error.code().message()),
        "give the place where it is now");
  }
}

/// Whoever has the backing open would find it changed.
void require_unused(const PosixStorage& backing) {
  if (!is_locked(backing.descriptor())) return;
  const auto holder = lock_holder(backing.descriptor());
  throw Busy(backing.name(), holder.empty() ? "in use" : fmt::format("in use by {}", holder),
             "its time can be set when nobody uses it");
}

void set_mtime(const PosixStorage& backing, std::uint32_t seconds) {
  const std::array<timespec, 2> times{timespec{0, UTIME_OMIT}, timespec{seconds, 0}};
  if (::futimens(backing.descriptor(), times.data()) != 0) {
    throw_errno(backing.name(), "cannot set its time");
  }
  if (::fsync(backing.descriptor()) != 0) throw_errno(backing.name(), "cannot sync");
}

}  // namespace

Relocation relocate_cow(const fs::path& cow, const fs::path& backing,
                        const ConfirmRestore& confirm_restore,
                        const std::optional<fs::path>& pending_directory) {
  const auto file = PosixStorage::open(cow, Access::read_write, FileKinds::regular);
  file->lock(LockKind::exclusive);
  const auto found = describe_cow(*file);
  const auto& name = file->name();

  const auto backing_file = open_backing(backing, name);
  refuse_impossible_backing(*backing_file, *file);
  refuse_unfinished_merge(cow, found.header, backing, *backing_file);
  const auto status = backing_file->status();
  const auto header = header_naming(found.header, backing, name);
  const auto state = compare_backing(found.header, status);
  const bool restore = state == BackingState::mtime_mismatch && confirm_restore;
  if (!restore) require_match(found.header, status, name, backing.string());

  Relocation result{.from = found.header.backing_path,
                    .to = header.backing_path,
                    .mtime_restored = restore,
                    .notices = {}};
  if (restore) {
    require_unused(*backing_file);
    confirm_restore({.backing = backing.string(),
                     .recorded = found.header.backing_mtime,
                     .present = header_mtime(status)});
    set_mtime(*backing_file, found.header.backing_mtime);
  }
  backing_file->lock(LockKind::shared);
  if (pending_directory) {
    // Its bits belong to a COW with the present header.
    auto notice = settle_left_behind(*pending_directory, *file, found, Access::read_write);
    if (!notice.empty()) result.notices.push_back(std::move(notice));
  }
  rewrite_header(*file, header);
  return result;
}

}  // namespace cowfs::core
