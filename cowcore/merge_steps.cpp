// The order of writes, and what a crash leaves. B is the backing, C the COW, J the journal.
//
//   1. Siblings: of each page that C changes, the sectors that a sibling does not have are copied
//      from B into the sibling: data, sync, bits, sync, as in a flush.
//   2. J: "begun", synced.
//   3. B: gets another mtime, synced: it could else reach the disk after the data. Then every
//      sector of C is written into B, and it is synced, with its times.
//   4. J: "done", with B's new mtime and size, synced.
//   5. Siblings: each header is renewed to these, synced.
//   6. C: bitmap and data are punched, synced; then its header is renewed, synced. (Or: C is
//   removed,
//      its directory synced.)
//   7. J is cleared, synced; then it may be removed.
//
// C is not touched before 6, so until then C over B reads the same, however much of 3 is on disk: a
// sector of B either has its old content, or what C has, and C's bit hides it anyway. The same goes
// for a sibling after 1: what 3 changes in B, its own bits hide.
//
// A crash in 1 leaves B as it was, and siblings with some more sectors of the same content. A crash
// in 2 leaves half a record, which is none. From 3 on B's mtime differs from what all headers say;
// J tells that this is C's merge, so that it may go on where others must refuse. Going on at 3
// needs nothing of B's old content: step 1 is not repeated, since B may hold C's sectors by then. A
// crash from 4 on leaves B complete: 5 and 6 are repeated, and do no harm to what has been done,
// since a header of C that is new tells that C is empty (and may have been used again).
//
// Whoever opens C or a sibling is refused while J says "begun", and, once it says "done", as long
// as the header does not match B (merge_journal.hpp).

#include "cowcore/merge_steps.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "cowcore/bitmap_editor.hpp"
#include "cowcore/bitmap_reader.hpp"
#include "cowcore/merge.hpp"
#include "cowcore/merged_pieces.hpp"
#include "cowcore/padded_read.hpp"
#include "cowcore/range_copier.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/zeros.hpp"

namespace cowfs::core {
namespace {

constexpr std::size_t compared_bytes = std::size_t{128} << 10;

/// Goes through what the merge changes in the backing.
class Changes {
 public:
  explicit Changes(const MergeFiles& files)
      : files_(files),
        layout_(files.description.layout),
        in_cow_(compared_bytes),
        in_backing_(compared_bytes),
        pages_(compared_bytes + 2 * page_bytes) {}

  /// Calls function(offset, old content) for whole pages, upwards; perhaps twice for one.
  template <typename Function>
  void for_each(Function&& function) {
    MergedPieces pieces(*files_.cow, *files_.backing, layout_);
    for (auto piece = pieces.next_in_cow(0); piece.length > 0;
         piece = pieces.next_in_cow(piece.end())) {
      for (auto at = piece.offset; at < piece.end(); at += compared_bytes) {
        compare(at, std::min<std::uint64_t>(compared_bytes, piece.end() - at), function);
      }
    }
  }

 private:
  template <typename Function>
  void compare(std::uint64_t offset, std::uint64_t length, Function&& function) {
    const auto old = std::span(in_backing_).first(length);
    const auto present = std::span(in_cow_).first(length);
    read_padded(*files_.backing, offset, layout_.backing_size, old);
    read_padded(*files_.cow, layout_.data_offset + offset, ~std::uint64_t{0}, present);
    const auto differs = [&](std::uint64_t at) {
      return !std::ranges::equal(old.subspan(at, sector_bytes), present.subspan(at, sector_bytes));
    };
    for (std::uint64_t at = 0; at < length;) {
      auto end = at;
      while (end < length && differs(end)) end += sector_bytes;
      if (end > at) tell(offset + at, offset + end, function);
      at = end + (end < length ? sector_bytes : 0);
    }
  }

  /// The old content of the pages that hold the range.
  template <typename Function>
  void tell(std::uint64_t begin, std::uint64_t end, Function&& function) {
    begin = round_down(begin, page_bytes);
    end = std::min(round_up(end, page_bytes), layout_.merged_size);
    const auto pages = std::span(pages_).first(end - begin);
    read_padded(*files_.backing, begin, layout_.backing_size, pages);
    function(begin, std::span<const std::byte>(pages));
  }

  const MergeFiles& files_;
  const CowLayout& layout_;
  std::vector<std::byte> in_cow_;
  std::vector<std::byte> in_backing_;
  std::vector<std::byte> pages_;
};

/// Gives a sibling what the merge takes from the backing.
class SiblingKeeper {
 public:
  explicit SiblingKeeper(const MergeFiles::Sibling& sibling)
      : file_(*sibling.file),
        layout_(sibling.description.layout),
        present_(file_, layout_),
        bits_(file_, layout_) {}

  void keep(std::uint64_t offset, std::span<const std::byte> content) {
    while (!content.empty()) {
      const auto run = present_.run(offset / sector_bytes, content.size() / sector_bytes);
      const auto length = run.length * sector_bytes;
      if (!run.in_cow) copy(offset, content.first(length));
      content = content.subspan(length);
      offset += length;
    }
  }

  void finish() {
    set_bits();
    file_.sync();
  }

 private:
  static constexpr std::size_t most_ranges = 4096;

  void copy(std::uint64_t offset, std::span<const std::byte> content) {
    // There may be left-overs where no bit is set.
    if (is_zeros(content)) {
      if (layout_.data_offset + offset < file_.status().size) {
        file_.punch(layout_.data_offset + offset, content.size());
      }
    } else {
      file_.write(layout_.data_offset + offset, content);
    }
    ranges_.emplace_back(offset / sector_bytes, content.size() / sector_bytes);
    if (ranges_.size() == most_ranges) set_bits();
  }

  /// The bits go to disk with the next sync; their data is there before.
  void set_bits() {
    if (ranges_.empty()) return;
    file_.sync();
    for (const auto& [first, count] : ranges_) bits_.set(first, count);
    bits_.finish();
    ranges_.clear();
  }

  Storage& file_;
  CowLayout layout_;
  BitmapReader present_;
  BitmapEditor bits_;
  std::vector<std::pair<SectorNumber, SectorCount>> ranges_;
};

void keep_siblings(const MergeFiles& files, const Progress& progress) {
  if (files.siblings.empty()) return;
  std::vector<SiblingKeeper> keepers;
  keepers.reserve(files.siblings.size());
  for (const auto& sibling : files.siblings) keepers.emplace_back(sibling);
  const auto total = files.cow->status().allocated;
  std::uint64_t done = 0;
  Changes(files).for_each([&](std::uint64_t offset, std::span<const std::byte> old) {
    for (auto& keeper : keepers) keeper.keep(offset, old);
    done += old.size();
    report(progress, done, std::max(done, total));
  });
  for (auto& keeper : keepers) keeper.finish();
}

void write_backing(const MergeFiles& files, const Progress& progress) {
  const auto& layout = files.description.layout;
  const auto size = plain_size(*files.cow, layout);
  if (size > files.backing->status().size) files.backing->resize(size);
  const auto total = files.cow->status().allocated;
  std::uint64_t done = 0;
  RangeCopier copier(*files.backing, RangeCopier::Holes::are_punched, [&](std::uint64_t bytes) {
    done += bytes;
    report(progress, done, std::max(done, total));
  });
  MergedPieces pieces(*files.cow, *files.backing, layout);
  for (auto piece = pieces.next_in_cow(0); piece.length > 0;
       piece = pieces.next_in_cow(piece.end())) {
    const auto length = std::min(piece.end(), size) - piece.offset;
    const auto in_cow = layout.data_offset + piece.offset;
    switch (piece.content) {
      case MergedPiece::Content::hole:
        copier.zero(piece.offset, length);
        break;
      case MergedPiece::Content::unknown:
        copier.copy_or_zero(*files.cow, in_cow, piece.offset, length);
        break;
      case MergedPiece::Content::data:
        copier.copy(*files.cow, in_cow, piece.offset, length);
        break;
    }
    report(progress, done, std::max(done, total));
  }
  copier.finish();
}

CowHeader renewed(CowHeader header, const MergedBacking& merged) {
  header.backing_mtime = merged.mtime;
  header.backing_size = merged.size;
  return header;
}

void renew_headers(const MergeFiles& files, const MergedBacking& merged) {
  for (const auto& sibling : files.siblings) {
    rewrite_header(*sibling.file, renewed(sibling.description.header, merged));
  }
  const auto header = renewed(files.description.header, merged);
  const bool is_empty_already = files.description.header == header;
  if (files.remove_cow) {
    files.remove_cow();
  } else if (!is_empty_already) {
    empty_cow(*files.cow, files.description, header);
  }
}

}  // namespace

void empty_cow(Storage& cow, const CowDescription& description, const CowHeader& header) {
  const auto& layout = description.layout;
  const auto end = layout.data_offset + header.backing_size;
  const auto size = cow.status().size;
  cow.punch(layout.bitmap_offset, std::max(size, end) - layout.bitmap_offset);
  if (size < end) cow.resize(end);
  cow.sync();
  rewrite_header(cow, header);
}

void run_merge_steps(const MergeFiles& files, const MergeStart& start, const Progress& progress) {
  auto merged = start.done;
  if (!merged) {
    if (!start.begun) {
      keep_siblings(files, progress);
      note_begun(*files.journal, start.record);
    }
    files.touch_backing();
    write_backing(files, progress);
    merged = files.finish_backing();
    note_done(*files.journal, start.record, *merged);
  }
  renew_headers(files, *merged);
  clear_journal(*files.journal);
}

}  // namespace cowfs::core
