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

constexpr std::uint64_t window_bytes = std::uint64_t{128} << 10;
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
        in_cow_(window_bytes),
        in_backing_(window_bytes) {}

  CompactResult run() {
    MergedPieces pieces(cow_, backing_, layout_);
    DataAndHoles backing(backing_, 0);
    for (auto piece = pieces.next_in_cow(0); piece.length > 0;) {
      auto at = piece.offset;
      const auto holes = holes_in_both(piece, backing);
      if (holes > 0) {
        drop(at, holes);
        at += holes;
      } else {
        at = compact_window(pieces, round_down(at, window_bytes));
      }
      piece = pieces.next_in_cow(at);
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

  /// How much of a piece, in whole pages, is a hole over a hole: that need not be read, however
  /// long it is.
  [[nodiscard]] static std::uint64_t holes_in_both(const MergedPiece& piece,
                                                   DataAndHoles& backing) {
    if (piece.content != MergedPiece::Content::hole || piece.offset % page_bytes != 0) return 0;
    const auto below = backing.at(piece.offset);
    if (below.is_data) return 0;
    return round_down(std::min(piece.end(), below.end) - piece.offset, page_bytes);
  }

  /// Goes through the pages of a stretch of the image; returns where it ends.
  std::uint64_t compact_window(MergedPieces& pieces, std::uint64_t begin) {
    const auto end = std::min(begin + window_bytes, layout_.merged_size);
    std::uint64_t read = 0;
    is_in_cow_.fill(false);
    for (auto at = begin; at < end;) {
      const auto piece = pieces.at(at);
      const auto piece_end = std::min(piece.end(), end);
      if (piece.in_cow) {
        const auto into = std::span(in_cow_).subspan(at - begin, piece_end - at);
        if (piece.content == MergedPiece::Content::hole) {
          std::ranges::fill(into, std::byte{});
        } else {
          read_padded(cow_, layout_.data_offset + at, ~std::uint64_t{0}, into);
          read += into.size();
        }
        std::fill(&is_in_cow_[(at - begin) / sector_bytes],
                  &is_in_cow_[0] + (piece_end - begin) / sector_bytes, true);
      }
      at = piece_end;
    }
    read_padded(backing_, begin, layout_.backing_size, std::span(in_backing_).first(end - begin));
    for (auto page = begin; page < end; page += page_bytes) {
      compact_page(page, std::min(page + page_bytes, end), begin);
    }
    done_ += read;
    report(progress_, done_, std::max(done_, total_));
    return end;
  }

  void compact_page(std::uint64_t page, std::uint64_t end, std::uint64_t window) {
    const auto sector_of = [&](const std::vector<std::byte>& bytes, std::uint64_t at) {
      return std::span(bytes).subspan(at - window, sector_bytes);
    };
    bool all_equal = true;
    for (auto at = page; at < end && all_equal; at += sector_bytes) {
      all_equal = !is_in_cow_[(at - window) / sector_bytes] ||
                  std::ranges::equal(sector_of(in_cow_, at), sector_of(in_backing_, at));
    }
    for (auto at = page; at < end; at += sector_bytes) {
      const bool in_cow = is_in_cow_[(at - window) / sector_bytes];
      if (all_equal) {
        if (in_cow) drop(at, sector_bytes);
        continue;
      }
      if (in_cow) ++result_.kept;
      // What lies where no bit is set does not matter: with it, more whole blocks can be given
      // back.
      if (!in_cow || is_zeros(sector_of(in_cow_, at))) add_punchable(at, sector_bytes);
    }
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
  std::array<bool, window_bytes / sector_bytes> is_in_cow_{};
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
