#include "cowcore/merge_in_place.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <ctime>
#include <random>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/merge.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/open_cow.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

namespace {

void sync_all(const PosixStorage& file) {
  if (::fsync(file.descriptor()) != 0) throw_errno(file.name(), "cannot sync");
}

void set_mtime(const PosixStorage& file, const timespec& time) {
  const timespec times[2] = {{0, UTIME_OMIT}, time};
  if (::futimens(file.descriptor(), times) != 0) {
    throw_errno(file.name(), "cannot set the time of change");
  }
}

/// The journal, made if need be. It gets its name before anything depends on it.
std::unique_ptr<PosixStorage> open_journal(const fs::path& path, const PosixStorage& backing) {
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd) throw_errno(path.string(), "cannot make the merge's journal");
  auto journal = std::make_unique<PosixStorage>(std::move(fd), path.string());
  if (!may_be_trusted(*journal, backing)) {
    throw Error(path.string(), "is in the way, and belongs to somebody else", "remove it");
  }
  sync_directory(path.parent_path());
  return journal;
}

MergeRecord::File name_in_record(const fs::path& path, const PosixStorage& file) {
  return {fs::canonical(path).string(), lasting_identity(file)};
}

bool names_file(const std::string& stored, const FileIdentity& file) {
  struct stat found {};
  const auto path = resolve_stored(stored);
  return !path.empty() && ::stat(path.c_str(), &found) == 0 &&
         FileIdentity{found.st_dev, found.st_ino} == file;
}

}  // namespace

InPlaceMerge::InPlaceMerge(const fs::path& cow, InPlaceOptions options)
    : path_(cow), options_(std::move(options)) {
  open_cow_file();
  open_backing();
  look_for_journal();
  if (!start_.begun) {
    require_match(description_.header, backing_->status(), cow_->name(), backing_path_.string());
  }
  if (options_.pending_directory && !start_.done) {
    const auto notice =
        settle_left_behind(*options_.pending_directory, *cow_, description_, Access::read_write);
    if (!notice.empty()) notices_.push_back(notice);
  }
  open_siblings();
}

void InPlaceMerge::open_cow_file() {
  cow_ = PosixStorage::open(path_, Access::read_write, FileKinds::regular);
  cow_->lock(LockKind::exclusive);
  description_ = describe_cow(*cow_);
}

void InPlaceMerge::open_backing() {
  const auto& name = cow_->name();
  const auto owner = cow_->status().owner;
  if (!options_.backing && ::geteuid() == 0 && owner != 0) {
    throw BackingMismatch(
        name,
        fmt::format("belongs to user {}, who may have named any file of root's as its backing",
                    owner),
        "if you trust the COW, give the backing, as COW,BACKING");
  }
  backing_path_ = options_.backing.value_or(resolve_stored(description_.header.backing_path));
  if (backing_path_.empty()) {
    throw BackingMismatch(name, "its header names no backing", "give one, as COW,BACKING");
  }
  try {
    backing_ = PosixStorage::open(backing_path_, Access::read_write, FileKinds::regular_or_block);
  } catch (const std::system_error& error) {
    if (error.code().value() != ENOENT) throw;
    throw BackingMismatch(name,
                          fmt::format("cannot open its backing {}: {}", backing_path_.string(),
                                      error.code().message()),
                          "if the backing was moved, give its new place as COW,BACKING");
  }
  refuse_kernel_file(*backing_, name);
  if (backing_->status().identity == cow_->status().identity) {
    throw BackingMismatch(name, "names itself as its backing",
                          "give the backing that it was made for, as COW,BACKING");
  }
  backing_->lock(LockKind::exclusive);
  journal_path_ = journal_path(path_, backing_path_, backing_->status());
}

void InPlaceMerge::look_for_journal() {
  const auto state = find_unfinished_merge(path_, backing_path_, *backing_);
  if (!state) return;
  if (state->begun.cow.identity != lasting_identity(*cow_)) return refuse_other_merge(*state);
  // A header that tells of the merged backing came last: the COW may have been used again since.
  const bool is_over = state->done && description_.header.backing_mtime == state->done->mtime &&
                       description_.header.backing_size == state->done->size;
  if (!is_over) adopt(*state);
}

void InPlaceMerge::adopt(const JournalState& state) {
  const auto present = backing_->status();
  if (state.done) {
    auto header = description_.header;
    header.backing_mtime = state.done->mtime;
    header.backing_size = state.done->size;
    require_match(header, present, cow_->name(), backing_path_.string());
  } else if (present.size != state.begun.backing_size &&
             present.size != round_up(state.begun.backing_size, sector_bytes)) {
    auto header = description_.header;
    header.backing_size = state.begun.backing_size;
    require_match(header, present, cow_->name(), backing_path_.string());
  }
  start_ = {state.begun, true, state.done};
}

/// A merge of another COW into this backing. Over, but for its COW and its journal, is one that was
/// to remove its COW and has done so.
void InPlaceMerge::refuse_other_merge(const JournalState& state) const {
  const auto& other = state.begun.cow.path;
  const bool is_there = fs::exists(fs::symlink_status(other));
  if (state.done && !is_there) return;
  throw BackingMismatch(
      cow_->name(),
      fmt::format("a merge of {} into its backing {} was interrupted", other,
                  backing_path_.string()),
      is_there ? fmt::format("complete it first: `cowfs merge --in-place {}`", other)
               : fmt::format("that COW is gone: if the backing is what you want, remove {}",
                             journal_path_.string()));
}

void InPlaceMerge::open_siblings() {
  if (!start_.begun) {
    for (const auto& path : options_.siblings) open_sibling(path);
    return;
  }
  for (const auto& path : options_.siblings) {
    const auto known = std::ranges::find(start_.record.siblings, fs::canonical(path).string(),
                                         &MergeRecord::File::path);
    if (known != start_.record.siblings.end()) continue;
    throw Error(path.string(), "was no sibling when this merge was begun, and can't become one now",
                "complete the merge without it");
  }
  for (const auto& sibling : start_.record.siblings) {
    if (fs::exists(fs::symlink_status(sibling.path))) {
      open_sibling(sibling.path);
      if (lasting_identity(*siblings_.back().file) == sibling.identity) continue;
      siblings_.pop_back();
    }
    notices_.push_back(
        fmt::format("{}: is no more where it was when the merge was begun; it will "
                    "not be told of the merged backing",
                    sibling.path));
  }
}

void InPlaceMerge::open_sibling(const fs::path& path) {
  Sibling sibling;
  sibling.file = PosixStorage::open(path, Access::read_write, FileKinds::regular);
  const auto identity = sibling.file->status().identity;
  const bool is_known = identity == cow_->status().identity ||
                        identity == backing_->status().identity ||
                        std::ranges::any_of(siblings_, [&](const Sibling& other) {
                          return other.file->status().identity == identity;
                        });
  if (is_known) throw Error(path.string(), "is part of this merge already", "name each COW once");
  sibling.file->lock(LockKind::exclusive);
  sibling.description = describe_cow(*sibling.file);
  if (!start_.begun) check_sibling_begins(sibling);
  if (options_.pending_directory && !start_.begun) {
    const auto notice = settle_left_behind(*options_.pending_directory, *sibling.file,
                                           sibling.description, Access::read_write);
    if (!notice.empty()) notices_.push_back(notice);
  }
  siblings_.push_back(std::move(sibling));
}

void InPlaceMerge::check_sibling_begins(const Sibling& sibling) const {
  const auto& name = sibling.file->name();
  const auto& header = sibling.description.header;
  if (!names_file(header.backing_path, backing_->status().identity)) {
    throw BackingMismatch(
        name, fmt::format("names the backing {}, not {}", header.backing_path, backing_->name()),
        "leave it out, or make it name this backing with `cowfs relocate`");
  }
  require_match(header, backing_->status(), name, backing_path_.string());
  refuse_unmapped_sectors(sibling.description, name);
  auto grown = header;
  grown.backing_size = plain_size(*cow_, description_.layout);
  auto layout = compute_layout(grown, name);
  layout.backing_size = sibling.description.layout.backing_size;
  if (layout != sibling.description.layout) {
    throw Error(name, "its layout has no place for the larger backing",
                "make it a V3 COW with `cowfs convert`");
  }
}

void InPlaceMerge::prepare_record() {
  const auto status = backing_->status();
  auto& record = start_.record;
  record.cow = name_in_record(path_, *cow_);
  record.backing = name_in_record(backing_path_, *backing_);
  record.backing_mtime = header_mtime(status);
  record.backing_size = status.size;
  for (const auto& sibling : siblings_) {
    record.siblings.push_back(name_in_record(sibling.file->name(), *sibling.file));
  }
  std::random_device random;
  record.nonce = std::uint64_t{random()} << 32 | random();
}

/// Within one second the backing's time of change, as headers record it, would stay the same.
void InPlaceMerge::wait_for_another_second() const {
  const auto is_same = [&] {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return static_cast<std::uint32_t>(now.tv_sec) == start_.record.backing_mtime;
  };
  while (is_same()) ::usleep(10'000);
}

void InPlaceMerge::touch_backing() const {
  wait_for_another_second();
  set_mtime(*backing_, {0, UTIME_NOW});
  sync_all(*backing_);
}

MergedBacking InPlaceMerge::finish_backing() const {
  sync_all(*backing_);
  auto status = backing_->status();
  if (header_mtime(status) == start_.record.backing_mtime) {
    set_mtime(*backing_, {status.modified.tv_sec + 1, 0});
    sync_all(*backing_);
    status = backing_->status();
  }
  return {header_mtime(status), status.size};
}

void InPlaceMerge::remove_cow() const {
  const auto file = fs::canonical(path_);
  if (::unlink(file.c_str()) != 0) throw_errno(file.string(), "cannot remove");
  sync_directory(file.parent_path());
}

MergeFiles InPlaceMerge::files(Storage& journal) {
  MergeFiles found;
  found.cow = cow_.get();
  found.description = description_;
  found.backing = backing_.get();
  for (const auto& sibling : siblings_) {
    found.siblings.push_back({sibling.file.get(), sibling.description});
  }
  found.journal = &journal;
  found.touch_backing = [this] { touch_backing(); };
  found.finish_backing = [this] { return finish_backing(); };
  if (options_.remove_cow) found.remove_cow = [this] { remove_cow(); };
  return found;
}

void InPlaceMerge::run(const Progress& progress) {
  if (!start_.begun) prepare_record();
  const auto journal = open_journal(journal_path_, *backing_);
  const std::string go_on = "run the same command again to complete it";
  const auto has_begun = [&] { return read_journal(*journal).has_value(); };
  // What an older merge may have left says nothing about this one.
  if (!start_.begun) clear_journal(*journal);
  try {
    run_merge_steps(files(*journal), start_, progress);
  } catch (const Cancelled&) {
    if (has_begun()) throw Cancelled(cow_->name(), go_on);
    ::unlink(journal_path_.c_str());
    throw Cancelled(cow_->name(), "the backing has not been changed");
  } catch (const std::exception& error) {
    if (has_begun()) {
      throw Error(cow_->name(), fmt::format("the merge is not complete ({})", error.what()), go_on);
    }
    ::unlink(journal_path_.c_str());
    throw;
  }
  if (::unlink(journal_path_.c_str()) != 0) throw_errno(journal_path_.string(), "cannot remove");
  sync_directory(journal_path_.parent_path());
}

}  // namespace cowfs::core
