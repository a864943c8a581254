#include "cowcore/merge.hpp"

#include <algorithm>
#include <array>

#include "cowcore/backing.hpp"
#include "cowcore/bitmap_reader.hpp"
#include "cowcore/merged_pieces.hpp"
#include "cowcore/open_cow.hpp"
#include "cowcore/range_copier.hpp"
#include "cowcore/zeros.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

/// Writes one output.
class MergeWriter {
 public:
  MergeWriter(const Storage& cow, const Storage& backing, const CowLayout& layout, Storage& output,
              std::uint64_t size, const Progress& progress)
      : cow_(cow),
        backing_(backing),
        layout_(layout),
        size_(size),
        progress_(progress),
        expected_(expected_bytes()),
        copier_(output, RangeCopier::Holes::are_there,
                [this](std::uint64_t bytes) { note(bytes); }) {}

  void run() {
    share_backing();
    MergedPieces pieces(cow_, backing_, layout_);
    for (std::uint64_t offset = 0; offset < size_;) {
      auto piece = shares_ ? pieces.next_in_cow(offset) : pieces.at(offset);
      offset = piece.end();
      piece.length = std::min(piece.end(), size_) - std::min(piece.offset, size_);
      if (piece.length > 0) write(piece);
      if (++pieces_ % 1024 == 0) note(0);
    }
    copier_.finish();
  }

 private:
  /// Both files' data; less will be copied where one hides the other's.
  [[nodiscard]] std::uint64_t expected_bytes() const {
    const auto backing = backing_.status();
    const auto in_backing = backing.allocated == 0 ? 0 : std::min(backing.allocated, size_);
    return std::min(size_, in_backing + cow_.status().allocated);
  }

  void note(std::uint64_t bytes) {
    done_ += bytes;
    expected_ = std::max(expected_, done_);
    report(progress_, done_, expected_);
  }

  /// Shares all of the backing's blocks, where the file system can, also those that the COW hides:
  /// between the sectors of a COW many small pieces would be left.
  void share_backing() {
    const auto end = std::min(size_, layout_.backing_size);
    auto data = backing_.next_data(0);
    while (data && *data < end) {
      const auto hole = std::min(backing_.next_hole(*data), end);
      const auto length = hole - *data;
      const auto shared = copier_.share(backing_, *data, *data, length);
      if (shared == 0 && !shares_) return;
      shares_ = true;
      copier_.set_holes(RangeCopier::Holes::are_punched);
      copier_.copy(backing_, *data + shared, *data + shared, length - shared);
      data = hole < end ? backing_.next_data(hole) : std::nullopt;
    }
  }

  void write(const MergedPiece& piece) {
    using Content = MergedPiece::Content;
    const auto in_cow = layout_.data_offset + piece.offset;
    if (piece.content == Content::hole) {
      copier_.zero(piece.offset, piece.length);
    } else if (piece.content == Content::unknown) {
      copier_.copy_or_zero(cow_, in_cow, piece.offset, piece.length);
    } else if (piece.in_cow) {
      copier_.copy(cow_, in_cow, piece.offset, piece.length);
    } else {
      // What lies in the file after backing_size is not part of the image.
      const auto end = std::min(piece.end(), layout_.backing_size);
      copier_.copy(backing_, piece.offset, piece.offset, end - piece.offset);
    }
  }

  const Storage& cow_;
  const Storage& backing_;
  const CowLayout& layout_;
  std::uint64_t size_;
  const Progress& progress_;
  std::uint64_t done_ = 0;
  std::uint64_t expected_;
  std::uint64_t pieces_ = 0;
  bool shares_ = false;  ///< all of the backing is in the output already
  RangeCopier copier_;
};

}  // namespace

std::uint64_t plain_size(const Storage& cow, const CowLayout& layout) {
  const auto in_last = layout.backing_size % sector_bytes;
  if (in_last == 0 || !BitmapReader(cow, layout).run(layout.sectors - 1, 1).in_cow) {
    return layout.backing_size;
  }
  std::array<std::byte, sector_bytes> rest;
  const auto count = cow.read(layout.data_offset + layout.backing_size,
                              std::span(rest).first(sector_bytes - in_last));
  return is_zeros(std::span(rest).first(count)) ? layout.backing_size : layout.merged_size;
}

void write_merged(const Storage& cow, const Storage& backing, const CowLayout& layout,
                  Storage& output, std::uint64_t size, const Progress& progress) {
  output.resize(size);
  MergeWriter(cow, backing, layout, output, size, progress).run();
}

MergeResult merge_cow(const fs::path& cow, const fs::path& output, const MergeOptions& options) {
  auto opened = open_cow_to_read(cow, options.backing);
  const auto cow_status = opened.cow->status();
  const auto place = choose_output(output, options.if_exists,
                                   {{cow_status.identity, "the COW"},
                                    {opened.backing->status().identity, "the backing of the COW"}});
  MergeResult result;
  result.notices = std::move(opened.notices);
  result.backing_size = opened.layout.backing_size;
  result.size = plain_size(*opened.cow, opened.layout);
  result.rounded_up = result.size != result.backing_size;

  NewFile made(place.file, cow_status.mode);
  write_merged(*opened.cow, *opened.backing, opened.layout, made.file(), result.size,
               options.progress);
  // Locks only keep away who asks for them.
  require_match(opened.header, opened.backing->status(), opened.cow->name(),
                opened.backing->name());
  made.file().sync();
  if (place.replaced) made.imitate(place.replaced->status());
  report(options.progress, result.size, result.size);  // the last moment to stop
  made.publish(options.if_exists);
  return result;
}

}  // namespace cowfs::core
