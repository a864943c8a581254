// The order of writes, and what a crash leaves.
//
// A write puts its data into the COW's data area first and marks its sectors in memory only when
// that has succeeded. The bitmap on disk does not change until a flush:
//
//   1. take the words of the bitmap that have pending bits, as they are now;
//   2. sync: the data of all those bits is on disk;
//   3. write exactly those words;
//   4. sync again: the words are on disk, the flush is done.
//
// A power loss before 3 leaves the old bitmap: the new data lies in sectors that nothing points at.
// Between 3 and 4 some of the words are on disk, whole sectors of them; each bit in them points at
// data that 2 has put there. A bit that is set while the flush runs is not in the words of 1, so
// its data need not be covered by 2; it waits for the next flush. Where no bit is pending (sectors
// that were in the COW before), 2 alone is the flush.
//
// Sectors that are in the COW already are overwritten in place: a power loss leaves the old or the
// new content of each. (One of them may need the file to grow first: complete_last_sector.)

#include "cowcore/cow_image.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <system_error>

#include "cowcore/data_and_holes.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/guarded_memory.hpp"

namespace cowfs::core {
namespace {

/// Ahead of a reader, no more of them are asked for: among many changes a stride has thousands.
constexpr std::size_t most_runs_ahead = 32;

[[noreturn]] void throw_error(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

}  // namespace

/// Runs of sectors that are in the COW and that are not, in turn.
struct CowImage::MixedRun {
  std::uint64_t begin;
  std::uint64_t end;
  bool in_cow;
};

class CowImage::MixedRuns {
 public:
  static constexpr std::size_t most = shortest_piece / sector_bytes;

  void add(const MixedRun& run) { runs_[count_++] = run; }
  [[nodiscard]] const MixedRun* begin() const { return runs_.data(); }
  [[nodiscard]] const MixedRun* end() const { return runs_.data() + count_; }

 private:
  std::array<MixedRun, most> runs_;
  std::size_t count_ = 0;
};

CowImage::CowImage(std::unique_ptr<Storage> cow, std::unique_ptr<Storage> backing,
                   const CowLayout& layout, bool read_only, std::unique_ptr<PendingStore> pending)
    : cow_(std::move(cow)),
      backing_(std::move(backing)),
      layout_(layout),
      read_only_(read_only),
      map_(*cow_, layout, std::move(pending)),
      cow_windows_(*cow_),
      backing_windows_(*backing_),
      cow_end_(cow_->status().size),
      failed_(map_.pending_store().has_failed()) {}

void CowImage::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size() || length > size() - offset) {
    throw_error(EINVAL, cow_->name() + ": range outside of the image");
  }
}

void CowImage::check_writable() const {
  if (read_only_) throw_error(EROFS, cow_->name() + ": opened read-only");
  if (refusing_.load(std::memory_order_relaxed)) {
    throw_error(EROFS, cow_->name() + ": read-only since something went wrong");
  }
  if (failed_.load(std::memory_order_relaxed)) {
    throw_error(EROFS, cow_->name() + ": read-only since a flush failed");
  }
}

/// The run that holds `offset`, cut at `end`. Its length is in sectors; the first may be a part.
SectorMap::Run CowImage::run_at(std::uint64_t offset, std::uint64_t end) const {
  const auto first = offset / sector_bytes;
  return map_.run(first, (end - 1) / sector_bytes + 1 - first);
}

// Reading

void CowImage::read_cow(std::uint64_t offset, std::span<std::byte> into) const {
  const auto count = cow_->read(layout_.data_offset + offset, into);
  // A bit may stand over the part of the data area that the file never grew to: zeros.
  std::ranges::fill(into.subspan(count), std::byte{});
}

void CowImage::read_backing(std::uint64_t offset, std::span<std::byte> into) const {
  const auto present = offset >= layout_.backing_size
                           ? 0
                           : std::min<std::uint64_t>(into.size(), layout_.backing_size - offset);
  if (present > 0 && backing_->read(offset, into.first(present)) < present) {
    throw_error(EIO, backing_->name() + ": shorter than when it was opened");
  }
  std::ranges::fill(into.subspan(present), std::byte{});
}

/// What of a piece of a page, in which short runs alternate, is where.
///
/// This is asked once, before the files are read. A sector that enters the COW meanwhile is then
/// read from the backing, as it was; asked later, it would be taken from a copy of the COW that is
/// older than its data.
CowImage::MixedRuns CowImage::mixed_runs(std::uint64_t offset, std::uint64_t end) const {
  MixedRuns runs;
  while (offset < end) {
    const auto run = run_at(offset, end);
    const auto run_end = std::min(end, (offset / sector_bytes + run.length) * sector_bytes);
    runs.add({offset, run_end, run.in_cow});
    offset = run_end;
  }
  return runs;
}

/// Reads such a piece: both files whole, put together in memory.
void CowImage::read_mixed(std::uint64_t offset, std::span<std::byte> into) const {
  const auto runs = mixed_runs(offset, offset + into.size());
  if (std::ranges::any_of(runs, [](const MixedRun& run) { return !run.in_cow; })) {
    read_backing(offset, into);
  }
  if (std::ranges::none_of(runs, &MixedRun::in_cow)) return;
  std::array<std::byte, shortest_piece> from_cow;
  read_cow(offset, std::span(from_cow).first(into.size()));
  for (const auto& run : runs) {
    if (!run.in_cow) continue;
    std::memcpy(&into[run.begin - offset], &from_cow[run.begin - offset], run.end - run.begin);
  }
}

/// The same from the mapped files, which takes no system call. Returns false if that can't be done.
bool CowImage::copy_mixed(std::uint64_t offset, std::span<std::byte> into, ReadView& view) {
  if (!mapped_memory_is_guarded()) return false;
  std::array<GuardedCopy, MixedRuns::most> copies;
  std::size_t count = 0;
  for (const auto& run : mixed_runs(offset, offset + into.size())) {
    const auto in_file = run.in_cow ? layout_.data_offset + run.begin : run.begin;
    const auto length = run.end - run.begin;
    const auto file_end =
        run.in_cow ? cow_end_.load(std::memory_order_acquire) : layout_.backing_size;
    if (in_file + length > file_end) return false;
    const auto* from =
        view.find_mapped(run.in_cow ? cow_windows_ : backing_windows_, in_file, length);
    if (from == nullptr) return false;
    copies[count++] = {&into[run.begin - offset], from, length};
  }
  return copy_guarded(std::span(copies).first(count));
}

void CowImage::view_mixed(std::uint64_t offset, std::size_t length, ReadView& view) {
  const auto room = view.add_scratch(length);
  if (!copy_mixed(offset, room, view)) read_mixed(offset, room);
}

void CowImage::read(std::uint64_t offset, std::span<std::byte> into) const {
  check_range(offset, into.size());
  const auto end = offset + into.size();
  const auto begin = offset;
  while (offset < end) {
    const auto run = run_at(offset, end);
    const auto run_end = std::min(end, (offset / sector_bytes + run.length) * sector_bytes);
    if (run_end == end || run_end - offset >= shortest_piece) {
      const auto piece = into.subspan(offset - begin, run_end - offset);
      run.in_cow ? read_cow(offset, piece) : read_backing(offset, piece);
      offset = run_end;
    } else {
      const auto mixed_end = std::min(end, round_down(offset, shortest_piece) + shortest_piece);
      read_mixed(offset, into.subspan(offset - begin, mixed_end - offset));
      offset = mixed_end;
    }
  }
}

void CowImage::view_cow(std::uint64_t offset, std::size_t length, ReadView& view) {
  const auto begin = layout_.data_offset + offset;
  const auto file_end = cow_end_.load(std::memory_order_acquire);
  const auto present = begin >= file_end ? 0 : std::min<std::uint64_t>(length, file_end - begin);
  if (present > 0 && !view.add_mapped(cow_windows_, begin, present)) {
    read_cow(offset, view.add_scratch(present));
  }
  view.add_zeros(length - present);
}

void CowImage::view_backing(std::uint64_t offset, std::size_t length, ReadView& view) {
  // What lies in the file after backing_size is not part of the image.
  const auto file_end = layout_.backing_size;
  const auto present = offset >= file_end ? 0 : std::min<std::uint64_t>(length, file_end - offset);
  if (present > 0 && !view.add_mapped(backing_windows_, offset, present)) {
    read_backing(offset, view.add_scratch(present));
  }
  view.add_zeros(length - present);
}

void CowImage::read_ahead(std::uint64_t offset, std::uint64_t length) const noexcept {
  const auto end = std::min(size(), offset + length);
  try {
    for (std::size_t runs = 0; offset < end && runs < most_runs_ahead; ++runs) {
      const auto run = run_at(offset, end);
      const auto run_end = std::min(end, (offset / sector_bytes + run.length) * sector_bytes);
      run.in_cow ? cow_->prefetch(layout_.data_offset + offset, run_end - offset)
                 : backing_->prefetch(offset, run_end - offset);
      offset = run_end;
    }
  } catch (const std::exception&) {
    return;  // a bitmap that can't be read there is an error of who reads there
  }
}

void CowImage::fill_view(std::uint64_t offset, std::uint64_t end, ReadView& view) {
  while (offset < end) {
    const auto run = run_at(offset, end);
    const auto run_end = std::min(end, (offset / sector_bytes + run.length) * sector_bytes);
    if (run_end == end || run_end - offset >= shortest_piece) {
      run.in_cow ? view_cow(offset, run_end - offset, view)
                 : view_backing(offset, run_end - offset, view);
      offset = run_end;
    } else {
      const auto mixed_end = std::min(end, round_down(offset, shortest_piece) + shortest_piece);
      view_mixed(offset, mixed_end - offset, view);
      offset = mixed_end;
    }
  }
}

void CowImage::view(std::uint64_t offset, std::size_t length, ReadView& view) {
  view.clear();
  check_range(offset, length);
  if (length == 0) return;
  if (length > view.longest()) throw_error(EINVAL, cow_->name() + ": read too long for its view");
  const auto ahead = sequential_reads_.note(offset, length);
  try {
    fill_view(offset, offset + length, view);
  } catch (...) {
    view.clear();
    throw;
  }
  if (ahead) read_ahead(*ahead, SequentialReads::stride);
}

// Writing

/// Whether `offset` cuts a sector that is not in the COW yet.
bool CowImage::needs_fill(std::uint64_t offset) const {
  return offset % sector_bytes != 0 && !map_.in_cow(offset / sector_bytes);
}

void CowImage::write(std::uint64_t offset, std::span<const std::byte> from) {
  check_range(offset, from.size());
  check_writable();
  if (from.empty()) return;
  const auto end = offset + from.size();
  if ((end - 1) / sector_bytes >= layout_.sectors_with_bit) {
    throw_error(EROFS, cow_->name() + ": its layout has no bit for the last sectors");
  }
  {
    const RangeLocks::Shared lock(locks_, offset, from.size());
    prepare(offset, end);
    if (!needs_fill(offset) && !needs_fill(end)) {
      write_data(offset, from);
      mark_in_cow(offset, end);
      return;
    }
  }
  const RangeLocks::Exclusive lock(locks_, offset, from.size());
  write_filled(offset, from);
  mark_in_cow(offset, end);
}

/// Writes the range and, for the sectors at its ends that are not in the COW yet, the rest of them.
void CowImage::write_filled(std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const auto within = offset % sector_bytes;
    auto length = from.size();
    const bool part_at_start = within != 0 || length < sector_bytes;
    length = part_at_start ? std::min<std::uint64_t>(length, sector_bytes - within)
                           : round_down(length, sector_bytes);
    if (part_at_start && !map_.in_cow(offset / sector_bytes)) {
      std::array<std::byte, sector_bytes> sector;
      read_backing(offset - within, sector);
      std::memcpy(&sector[within], from.data(), length);
      write_data(offset - within, sector);
    } else {
      write_data(offset, from.first(length));
    }
    from = from.subspan(length);
    offset += length;
  }
}

// A COW of an odd-sized backing ends inside its last sector, as UML makes it. If that sector's bit
// is on disk, a power loss in the middle of a write could leave its new data without the file's new
// size: half of it, then zeros. So the size has to be on disk before, or together with, the bit.

void CowImage::grow() {
  const auto size = layout_.data_offset + layout_.merged_size;
  cow_->resize(size);  // no write goes past this
  note_end(size);
}

/// For a bit that was there when the COW was opened.
void CowImage::complete_last_sector() {
  if (!map_.in_cow(layout_.sectors - 1)) return;
  grow();
  unflushed_.store(true, std::memory_order_release);
  flush();
}

void CowImage::write_data(std::uint64_t offset, std::span<const std::byte> from) {
  const auto begin = layout_.data_offset + offset;
  const auto end = begin + from.size();
  const auto file_end = cow_end_.load(std::memory_order_relaxed);
  if (end > file_end && file_end % sector_bytes != 0) complete_last_sector();
  cow_->write(begin, from);
  note_end(end);
}

/// The COW file reaches as far as `end`.
void CowImage::note_end(std::uint64_t end) {
  auto known = cow_end_.load(std::memory_order_relaxed);
  while (known < end && !cow_end_.compare_exchange_weak(known, end, std::memory_order_release)) {
  }
}

void CowImage::prepare(std::uint64_t begin, std::uint64_t end) {
  const auto first = begin / sector_bytes;
  map_.prepare(first, (end - 1) / sector_bytes + 1 - first);
}

void CowImage::mark_in_cow(std::uint64_t begin, std::uint64_t end) {
  const auto first = begin / sector_bytes;
  map_.set(first, (end - 1) / sector_bytes + 1 - first);
  unflushed_.store(true, std::memory_order_release);
}

void CowImage::zero(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  check_writable();
  const auto end = offset + length;
  const auto whole_begin = std::min(end, round_up(offset, sector_bytes));
  const auto whole_end = std::max(whole_begin, round_down(end, sector_bytes));
  if (whole_begin > offset) zero_part(offset, whole_begin - offset);
  if (whole_end > whole_begin) {
    if (whole_end > layout_.sectors_with_bit * sector_bytes) {
      throw_error(EROFS, cow_->name() + ": its layout has no bit for the last sectors");
    }
    const RangeLocks::Shared lock(locks_, whole_begin, whole_end - whole_begin);
    zero_sectors(whole_begin, whole_end);
  }
  if (end > whole_end) zero_part(whole_end, end - whole_end);
}

/// Zeros a part of a sector, unless the sector is a hole already.
void CowImage::zero_part(std::uint64_t offset, std::uint64_t length) {
  static constexpr std::array<std::byte, sector_bytes> zeros{};
  if (extent(offset, length).source == Source::zero) return;
  write(offset, std::span(zeros).first(length));
}

/// Zeros whole sectors: those in the COW, and those that the backing has data for.
void CowImage::zero_sectors(std::uint64_t begin, std::uint64_t end) {
  while (begin < end) {
    const auto run = run_at(begin, end);
    const auto run_end = std::min(end, begin + run.length * sector_bytes);
    if (run.in_cow) {
      punch(begin, run_end);
      begin = run_end;
      continue;
    }
    const auto data = backing_->next_data(begin);
    if (!data || *data >= run_end) {
      begin = run_end;
      continue;
    }
    const auto from = std::max(begin, round_down(*data, sector_bytes));
    const auto hole = round_up(backing_->next_hole(*data), sector_bytes);
    const auto to = std::clamp(hole, from + sector_bytes, run_end);
    punch(from, to);
    begin = to;
  }
}

void CowImage::punch(std::uint64_t begin, std::uint64_t end) {
  prepare(begin, end);
  const auto file_end = cow_end_.load(std::memory_order_relaxed);
  if (layout_.data_offset + end > file_end && file_end % sector_bytes != 0) grow();
  cow_->punch(layout_.data_offset + begin, end - begin);
  mark_in_cow(begin, end);
}

void CowImage::reserve(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  check_writable();
  if (length > 0) cow_->reserve(layout_.data_offset + offset, length);
}

// Flushing

void CowImage::flush() {
  if (read_only_) return;
  flushes_.run([this] { flush_once(); });
}

void CowImage::flush_once() {
  if (failed_) throw_error(EIO, cow_->name() + ": an earlier flush failed");
  try {
    const bool written = unflushed_.exchange(false, std::memory_order_acq_rel);
    map_.take_pending(taken_);
    if (!written && taken_.empty()) return;
    cow_->sync();
    if (taken_.empty()) return;
    map_.write_pending(taken_);
    cow_->sync();
    map_.settle(taken_);
  } catch (...) {
    failed_ = true;
    map_.pending_store().note_failure();
    throw;
  }
}

// What is where

/// Finds extents one after the other, asking each file only where its last answer ends.
class CowImage::ExtentFinder {
 public:
  explicit ExtentFinder(const CowImage& image)
      : image_(image), cow_(*image.cow_, image.layout_.data_offset), backing_(*image.backing_, 0) {}

  Extent at(std::uint64_t offset, std::uint64_t end) {
    // The file comes first: its answer bounds the search in the bitmap, which else goes to the end
    // of the run for each of the pieces in it.
    const bool in_cow = image_.map_.in_cow(offset / sector_bytes);
    const auto [is_data, piece_end] = (in_cow ? cow_ : backing_).at(offset);
    const auto limit = std::min(end, piece_end);
    const auto run = image_.run_at(offset, limit);
    if (run.in_cow != in_cow) return at(offset, end);  // written just now
    const auto run_end = std::min(limit, (offset / sector_bytes + run.length) * sector_bytes);
    const auto source = !is_data ? Source::zero : in_cow ? Source::cow : Source::backing;
    return {offset, run_end - offset, source};
  }

 private:
  const CowImage& image_;
  DataAndHoles cow_;
  DataAndHoles backing_;
};

Extent CowImage::extent(std::uint64_t offset, std::uint64_t limit) const {
  check_range(offset, limit);
  return ExtentFinder(*this).at(offset, offset + limit);
}

std::optional<std::uint64_t> CowImage::next_data(std::uint64_t offset) const {
  ExtentFinder finder(*this);
  while (offset < size()) {
    const auto extent = finder.at(offset, size());
    if (extent.source != Source::zero) return offset;
    offset += extent.length;
  }
  return std::nullopt;
}

std::uint64_t CowImage::next_hole(std::uint64_t offset) const {
  ExtentFinder finder(*this);
  while (offset < size()) {
    const auto extent = finder.at(offset, size());
    if (extent.source == Source::zero) return offset;
    offset += extent.length;
  }
  return size();
}

}  // namespace cowfs::core
