#include "cowcore/open_cow.hpp"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/open_as.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

bool is_not_writable(const std::system_error& error) {
  const auto code = error.code().value();
  return code == EACCES || code == EROFS || code == EPERM;
}

/// Opens the COW file, read-only if it may not be written.
std::unique_ptr<PosixStorage> open_file(const fs::path& cow, Access& access,
                                        std::vector<std::string>& notices) {
  try {
    return PosixStorage::open(cow, access, FileKinds::regular);
  } catch (const std::system_error& error) {
    if (access == Access::read_only || !is_not_writable(error)) throw;
  }
  access = Access::read_only;
  auto file = PosixStorage::open(cow, access, FileKinds::regular);
  notices.push_back(fmt::format("{}: may not be written; opened read-only", cow.string()));
  return file;
}

std::unique_ptr<PosixStorage> open_given_backing(const fs::path& path, const std::string& cow) {
  try {
    return PosixStorage::open(path, Access::read_only, FileKinds::regular_or_block);
  } catch (const std::system_error& error) {
    throw BackingMismatch(
        cow, fmt::format("cannot open the backing {}: {}", path.string(), error.code().message()),
        "give the backing that it was made for, as COW,BACKING");
  }
}

/// Opens the backing that the header names. Whoever owns the COW has written that name: root opens
/// for them only what they could open themselves, or they would be shown /etc/shadow.
std::unique_ptr<PosixStorage> open_named_backing(const fs::path& path, const PosixStorage& cow) {
  const auto owner = cow.status().owner;
  const bool as_owner = ::geteuid() == 0 && owner != 0;
  try {
    return as_owner ? open_for_reading_as(owner, path)
                    : PosixStorage::open(path, Access::read_only, FileKinds::regular_or_block);
  } catch (const std::system_error& error) {
    const auto who = as_owner ? fmt::format(" as user {}, who owns the COW", owner) : "";
    throw BackingMismatch(
        cow.name(),
        fmt::format("cannot open its backing {}{}: {}", path.string(), who, error.code().message()),
        as_owner ? "if you trust the COW, give the backing, as COW,BACKING"
                 : "if the backing was moved, give its new place as COW,BACKING");
  }
}

}  // namespace

/// Files of the kernel's own file systems are no disk images, and what reading them does is
/// anyone's guess.
void refuse_kernel_file(const PosixStorage& backing, const std::string& cow) {
  struct statfs found {};
  if (::fstatfs(backing.descriptor(), &found) != 0) return;
  if (found.f_type == PROC_SUPER_MAGIC || found.f_type == SYSFS_MAGIC) {
    throw BackingMismatch(cow,
                          fmt::format("its backing {} is a file of the kernel", backing.name()),
                          "give the backing that it was made for, as COW,BACKING");
  }
}

namespace {

bool is_same_file(const fs::path& path, const FileIdentity& file) {
  struct stat found {};
  return !path.empty() && ::stat(path.c_str(), &found) == 0 &&
         FileIdentity{found.st_dev, found.st_ino} == file;
}

}  // namespace

void refuse_unmapped_sectors(const CowDescription& found, const std::string& file) {
  const auto missing = found.layout.sectors - found.layout.sectors_with_bit;
  if (missing == 0) return;
  throw Error(file,
              fmt::format("its {} bitmap has no bit for the last {} sector{}, so they can't be "
                          "written",
                          format_name(found.header.format), missing, missing == 1 ? "" : "s"),
              "mount it with -o ro, or make it a V3 COW with `cowfs convert`");
}

namespace {

/// Makes the header name the backing that was given, unless it names the same file already.
void relocate(OpenedCow& opened, const fs::path& given) {
  const auto old_path = resolve_stored(opened.header.backing_path);
  if (is_same_file(old_path, opened.backing->status().identity)) return;
  const auto& file = opened.cow->name();
  const auto new_path = stored_path(given).string();
  if (opened.access == Access::read_only) {
    opened.notices.push_back(fmt::format("{}: uses backing {} instead of {} this time", file,
                                         new_path, opened.header.backing_path));
    return;
  }
  auto header = header_naming(opened.header, given, file);
  rewrite_header(*opened.cow, header);
  opened.notices.push_back(fmt::format("{}: relocated from backing {} to {}", file,
                                       opened.header.backing_path, new_path));
  opened.header = std::move(header);
}

/// Whether a mount that was killed has left bits that only a writer can put on disk.
bool has_applicable_bits(const fs::path& cow, const fs::path& pending_directory) {
  const auto file = PosixStorage::open(cow, Access::read_only, FileKinds::regular);
  const auto left = find_left_behind(pending_directory, *file, describe_cow(*file));
  return left.state == LeftBehind::State::applicable;
}

}  // namespace

void refuse_impossible_backing(const PosixStorage& backing, const PosixStorage& cow) {
  refuse_kernel_file(backing, cow.name());
  if (backing.status().identity == cow.status().identity) {
    throw BackingMismatch(cow.name(), "names itself as its backing",
                          "give the backing that it was made for, as COW,BACKING");
  }
}

CowHeader header_naming(CowHeader header, const fs::path& backing, const std::string& cow) {
  header.backing_path = stored_path(backing).string();
  const auto longest = longest_backing_path(header.format);
  if (header.backing_path.size() > longest) {
    throw Error(cow,
                fmt::format("the path of the backing has {} bytes, a {} header takes {}",
                            header.backing_path.size(), format_name(header.format), longest),
                "use a shorter path");
  }
  return header;
}

OpenedCow open_cow_to_read(const fs::path& cow, const std::optional<fs::path>& backing,
                           const std::optional<fs::path>& pending_directory) {
  std::vector<std::string> notices;
  if (pending_directory && has_applicable_bits(cow, *pending_directory)) {
    notices = open_cow(cow, backing, Access::read_write, pending_directory).notices;
  }
  auto opened = open_cow(cow, backing, Access::read_only, pending_directory);
  opened.notices.insert(opened.notices.begin(), notices.begin(), notices.end());
  return opened;
}

OpenedCow open_cow(const fs::path& cow, const std::optional<fs::path>& backing, Access access,
                   const std::optional<fs::path>& pending_directory) {
  OpenedCow opened;
  opened.access = access;
  opened.cow = open_file(cow, opened.access, opened.notices);
  const auto& name = opened.cow->name();
  opened.cow->lock(opened.access == Access::read_write ? LockKind::exclusive : LockKind::shared);

  auto found = describe_cow(*opened.cow);
  if (opened.access == Access::read_write) refuse_unmapped_sectors(found, name);
  const auto path = backing ? *backing : resolve_stored(found.header.backing_path);
  if (path.empty()) {
    throw BackingMismatch(name, "its header names no backing", "give one, as COW,BACKING");
  }
  auto backing_file =
      backing ? open_given_backing(path, name) : open_named_backing(path, *opened.cow);
  refuse_impossible_backing(*backing_file, *opened.cow);
  const auto status = backing_file->status();
  backing_file->lock(LockKind::shared);
  refuse_unfinished_merge(cow, found.header, path, *backing_file);
  require_match(found.header, status, name, path.string());

  if (pending_directory) {
    const auto notice = settle_left_behind(*pending_directory, *opened.cow, found, opened.access);
    if (!notice.empty()) opened.notices.push_back(notice);
  }
  opened.backing = std::move(backing_file);
  opened.header = std::move(found.header);
  opened.layout = found.layout;
  if (backing) relocate(opened, *backing);
  if (opened.layout.merged_size == 0) {
    opened.notices.push_back(
        fmt::format("{}: its backing {} has 0 bytes, and so has the image; `cowfs mkimage` makes "
                    "a backing that a guest can use",
                    name, path.string()));
  }
  return opened;
}

}  // namespace cowfs::core
