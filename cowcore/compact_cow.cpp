// The order of writes, and what a crash leaves.
//
//   1. bits are cleared whose sectors equal the backing's; sync;
//   2. the data of these sectors is punched, and that of sectors of zeros, whose bits stay.
//
// In many rounds, and at last a sync. A power loss leaves any of the bits of 1: such a sector reads
// the same from either file, as long as its data is there; and that goes only after the sync. Zeros
// read the same as a hole.

#include "cowcore/compact_cow.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "cowcore/bitmap_editor.hpp"
#include "cowcore/bitmap_reader.hpp"
#include "cowcore/data_and_holes.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/merged_pieces.hpp"
#include "cowcore/open_cow.hpp"
#include "cowcore/padded_read.hpp"
#include "cowcore/zeros.hpp"

namespace cowfs::core {
namespace {

constexpr std::size_t compared_bytes = std::size_t{128} << 10;
/// The least that a file system gives back. To punch less would only write zeros.
constexpr std::uint64_t block_bytes = 4096;
constexpr std::size_t most_ranges = 32768;

class Compaction {
 public:
  Compaction(Storage& cow, const Storage& backing, const CowLayout& layout,
             const Progress& progress)
      : cow_(cow),
        backing_(backing),
        layout_(layout),
        progress_(progress),
        file_size_(cow.status().size),
        total_(cow.status().allocated),
        bits_(cow, layout),
        in_cow_(compared_bytes),
        in_backing_(compared_bytes) {}

  CompactResult run() {
    MergedPieces pieces(cow_, backing_, layout_);
    DataAndHoles backing(backing_, 0);
    for (auto piece = pieces.next_in_cow(0); piece.length > 0;
         piece = pieces.next_in_cow(piece.end())) {
      const bool is_hole = piece.content == MergedPiece::Content::hole;
      for (auto at = piece.offset; at < piece.end();) {
        // A hole over a hole need not be read, however long it is.
        const auto below = backing.at(at);
        const bool both_holes = is_hole && !below.is_data;
        const auto limit = both_holes ? below.end : at + compared_bytes;
        const auto length = std::min(piece.end(), limit) - at;
        if (both_holes) {
          drop(at, length);
        } else {
          compare(at, length, is_hole);
        }
        at += length;
      }
    }
    free_punchable();
    free_unused();
    cow_.sync();
    return result_;
  }

 private:
  struct Range {
    std::uint64_t begin;  ///< of the image, bytes
    std::uint64_t end;
  };

  void compare(std::uint64_t offset, std::uint64_t length, bool is_hole) {
    const auto mine = std::span(in_cow_).first(length);
    const auto below = std::span(in_backing_).first(length);
    read_padded(backing_, offset, layout_.backing_size, below);
    if (is_hole) {
      std::ranges::fill(mine, std::byte{});
    } else {
      read_padded(cow_, layout_.data_offset + offset, ~std::uint64_t{0}, mine);
    }
    for (std::uint64_t at = 0; at < length; at += sector_bytes) {
      const auto sector = mine.subspan(at, sector_bytes);
      if (std::ranges::equal(sector, below.subspan(at, sector_bytes))) {
        drop(offset + at, sector_bytes);
      } else if (is_zeros(sector)) {
        result_.zeroed += is_hole ? 0 : 1;
        ++result_.kept;
        add_punchable(offset + at, sector_bytes);
      } else {
        ++result_.kept;
      }
    }
    done_ += is_hole ? 0 : length;
    report(progress_, done_, std::max(done_, total_));
  }

  void drop(std::uint64_t offset, std::uint64_t length) {
    bits_.clear(offset / sector_bytes, length / sector_bytes);
    result_.dropped += length / sector_bytes;
    add_punchable(offset, length);
  }

  void add_punchable(std::uint64_t offset, std::uint64_t length) {
    if (!punchable_.empty() && punchable_.back().end == offset) {
      punchable_.back().end += length;
      return;
    }
    if (punchable_.size() == most_ranges) free_punchable();
    punchable_.push_back({offset, offset + length});
  }

  void free_punchable() {
    bits_.finish();
    cow_.sync();
    for (const auto& range : punchable_) punch_blocks(range.begin, range.end);
    punchable_.clear();
  }

  /// Punches the whole blocks in a range of the image.
  void punch_blocks(std::uint64_t begin, std::uint64_t end) {
    const auto first = round_up(layout_.data_offset + begin, block_bytes);
    auto last = std::min(layout_.data_offset + end, file_size_);
    if (last < file_size_) last = round_down(last, block_bytes);
    if (first < last) cow_.punch(first, last - first);
  }

  /// What lies where no bit is set is of no use: what failed writes have left, or this operation,
  /// when it was interrupted.
  void free_unused() {
    BitmapReader bitmap(cow_, layout_);
    DataAndHoles data(cow_, layout_.data_offset);
    const auto size = layout_.merged_size;
    for (std::uint64_t at = 0; at < size;) {
      const auto piece = data.at(at);
      const auto end = std::min(piece.end, size);
      while (piece.is_data && at < end) {
        const auto first = at / sector_bytes;
        const auto run = bitmap.run(first, end / sector_bytes - first);
        const auto run_end = at + run.length * sector_bytes;
        if (!run.in_cow) punch_blocks(at, run_end);
        at = run_end;
      }
      at = end;
    }
  }

  Storage& cow_;
  const Storage& backing_;
  const CowLayout& layout_;
  const Progress& progress_;
  std::uint64_t file_size_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  BitmapEditor bits_;
  std::vector<std::byte> in_cow_;
  std::vector<std::byte> in_backing_;
  std::vector<Range> punchable_;
  CompactResult result_;
};

}  // namespace

CompactResult compact_open_cow(Storage& cow, const Storage& backing, const CowLayout& layout,
                               const Progress& progress) {
  return Compaction(cow, backing, layout, progress).run();
}

CompactResult compact_cow(const boost::filesystem::path& cow,
                          const std::optional<boost::filesystem::path>& backing,
                          const Progress& progress) {
  auto opened = open_cow(cow, backing, Access::read_write);
  if (opened.access == Access::read_only) {
    throw Error(cow.string(), "may not be written", "make it writable first");
  }
  const auto before = opened.cow->status().allocated;
  auto result = compact_open_cow(*opened.cow, *opened.backing, opened.layout, progress);
  result.allocated_before = before;
  result.allocated_after = opened.cow->status().allocated;
  result.notices = std::move(opened.notices);
  return result;
}

}  // namespace cowfs::core
