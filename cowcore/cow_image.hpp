// The merged image: a backing and the COW over it, as one block of bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "cowcore/cow_layout.hpp"
#include "cowcore/extent.hpp"
#include "cowcore/joined_calls.hpp"
#include "cowcore/mapped_windows.hpp"
#include "cowcore/range_locks.hpp"
#include "cowcore/read_view.hpp"
#include "cowcore/sector_map.hpp"
#include "cowcore/sequential_reads.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Reads and writes the merged image.
///
/// The image is size() bytes: the backing's size rounded up to whole sectors, its end filled with
/// zeros. It never changes its size. Any offset and length inside it will do; a range that reaches
/// outside is std::system_error(EINVAL).
///
/// What holds after a power loss: every sector has the content of the last flush that returned, or
/// one written after that. What holds when writes overlap in time: every sector has what one of
/// them wrote, over what was there before.
///
/// Thread safety: all functions may be called at once.
/// Errors: std::system_error. A write that fails (ENOSPC, EIO) marks no sector as being in the COW.
/// After a flush has failed the image is read-only: no later flush claims success (EIO), and writes
/// are refused (EROFS).
class CowImage {
 public:
  /// `backing` is only ever read; so is `cow` if `read_only`. Locks and validation are the business
  /// of open_cow.
  /// `pending` keeps the bits that are not on disk yet; what it holds already is taken over.
  /// Without it they are kept in memory.
  CowImage(std::unique_ptr<Storage> cow, std::unique_ptr<Storage> backing, const CowLayout& layout,
           bool read_only, std::unique_ptr<PendingStore> pending = nullptr);

  [[nodiscard]] std::uint64_t size() const { return layout_.merged_size; }
  [[nodiscard]] bool read_only() const { return read_only_; }
  [[nodiscard]] const CowLayout& layout() const { return layout_; }
  [[nodiscard]] const Storage& cow() const { return *cow_; }
  [[nodiscard]] const Storage& backing() const { return *backing_; }
  [[nodiscard]] const SectorMap& sectors() const { return map_; }

  /// Fills all of `into` from `offset` on.
  void read(std::uint64_t offset, std::span<std::byte> into) const;

  /// The same bytes as pieces of memory, most of them not copied; `length` is at most
  /// `view.longest()`. Reads ahead of who reads one piece after the other. The view is empty if
  /// this throws.
  void view(std::uint64_t offset, std::size_t length, ReadView& view);

  void write(std::uint64_t offset, std::span<const std::byte> from);

  /// Makes the range read as zeros, and gives back the space that it takes in the COW. What reads
  /// as zeros from a hole of the backing is left alone. Serves discard as well as write-zeroes.
  void zero(std::uint64_t offset, std::uint64_t length);

  /// Takes space in the COW, so that writes into the range will not meet a full disk.
  void reserve(std::uint64_t offset, std::uint64_t length);

  /// Refuses writes (EROFS) from now on; what was written can still be flushed.
  void refuse_writes() { refusing_ = true; }

  /// Returns when all writes that ended before the call survive a power loss. Calls that arrive
  /// together share the work; with nothing written there is none.
  void flush();

  /// Whether something may have been written since the last flush began.
  [[nodiscard]] bool has_unflushed() const { return unflushed_.load(std::memory_order_relaxed); }

  /// The piece at `offset`, at most `limit` bytes long (both inside the image, limit at least 1).
  /// Two pieces in a row may have the same source.
  [[nodiscard]] Extent extent(std::uint64_t offset, std::uint64_t limit) const;

  /// As SEEK_DATA and SEEK_HOLE: holes of both files count, and so does the end of the image.
  /// `offset` is inside the image.
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const;

 private:
  class ExtentFinder;
  struct MixedRun;
  class MixedRuns;

  /// From this length on it pays to point at a piece rather than to copy it.
  static constexpr std::uint64_t shortest_piece = 4096;

  void check_range(std::uint64_t offset, std::uint64_t length) const;
  void check_writable() const;
  [[nodiscard]] SectorMap::Run run_at(std::uint64_t offset, std::uint64_t end) const;
  void read_cow(std::uint64_t offset, std::span<std::byte> into) const;
  void read_backing(std::uint64_t offset, std::span<std::byte> into) const;
  [[nodiscard]] MixedRuns mixed_runs(std::uint64_t offset, std::uint64_t end) const;
  void read_mixed(std::uint64_t offset, std::span<std::byte> into) const;
  bool copy_mixed(std::uint64_t offset, std::span<std::byte> into, ReadView& view);
  void view_mixed(std::uint64_t offset, std::size_t length, ReadView& view);
  void view_cow(std::uint64_t offset, std::size_t length, ReadView& view);
  void view_backing(std::uint64_t offset, std::size_t length, ReadView& view);
  void fill_view(std::uint64_t offset, std::uint64_t end, ReadView& view);
  void read_ahead(std::uint64_t offset, std::uint64_t length) const noexcept;
  [[nodiscard]] bool needs_fill(std::uint64_t offset) const;
  void write_filled(std::uint64_t offset, std::span<const std::byte> from);
  void write_data(std::uint64_t offset, std::span<const std::byte> from);
  void grow();
  void complete_last_sector();
  void note_end(std::uint64_t end);
  void prepare(std::uint64_t begin, std::uint64_t end);
  void mark_in_cow(std::uint64_t begin, std::uint64_t end);
  void zero_part(std::uint64_t offset, std::uint64_t length);
  void zero_sectors(std::uint64_t begin, std::uint64_t end);
  void punch(std::uint64_t begin, std::uint64_t end);
  void flush_once();

  std::unique_ptr<Storage> cow_;
  std::unique_ptr<Storage> backing_;
  CowLayout layout_;
  bool read_only_;
  SectorMap map_;
  MappedWindows cow_windows_;
  MappedWindows backing_windows_;
  SequentialReads sequential_reads_;

  /// A write of whole sectors holds its range shared. A write of a part of a sector that is not in
  /// the COW yet has to copy the rest from the backing: it holds the range alone, or the copy could
  /// undo a write that came between.
  RangeLocks locks_;

  std::atomic<std::uint64_t> cow_end_;  ///< the size of the COW file; only ever grows
  /// Something was written, perhaps by a process before this one that did not come to sync it.
  std::atomic<bool> unflushed_ = true;
  std::atomic<bool> failed_;            ///< a flush has failed
  std::atomic<bool> refusing_ = false;  ///< by refuse_writes
  JoinedCalls flushes_;
  PendingWords taken_;  ///< of the flush that runs
};

}  // namespace cowfs::core
