// Going through a merged image from end to end.
#pragma once

#include <cstdint>

#include "cowcore/bitmap_reader.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/data_and_holes.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// A piece of the merged image, in bytes; whole sectors.
struct MergedPiece {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool in_cow = false;  ///< else in the backing
  enum class Content {
    data,
    hole,     ///< of that file: zeros
    unknown,  ///< a short piece in the COW
  } content = Content::hole;

  [[nodiscard]] std::uint64_t end() const { return offset + length; }
};

/// Tells what is where in a COW that nobody writes, in little memory, without a look at what lies
/// in holes. (CowImage::extent is for an image in use.)
///
/// Thread safety: one thread at a time. Errors: std::system_error.
class MergedPieces {
 public:
  /// The files must outlive this object.
  MergedPieces(const Storage& cow, const Storage& backing, const CowLayout& layout)
      : layout_(layout),
        bitmap_(cow, layout),
        cow_(cow, layout.data_offset),
        backing_(backing, 0) {}

  /// The piece that begins at `offset`, a whole sector inside the image. Quick when the calls go
  /// upwards. The next piece may be of the same kind.
  [[nodiscard]] MergedPiece at(std::uint64_t offset);

  /// The same, and its content is never unknown.
  [[nodiscard]] MergedPiece known_at(std::uint64_t offset);

  /// The next piece that is in the COW, at or after `offset`; one of length 0 if there is none.
  [[nodiscard]] MergedPiece next_in_cow(std::uint64_t offset);

 private:
  CowLayout layout_;
  BitmapReader bitmap_;
  DataAndHoles cow_;
  DataAndHoles backing_;
};

}  // namespace cowfs::core
