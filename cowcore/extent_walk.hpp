// Walking over what is where in a merged image, from its start to its end.
#pragma once

#include <cstdint>
#include <optional>

#include "cowcore/cow_layout.hpp"
#include "cowcore/extent.hpp"
#include "cowcore/merged_pieces.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Gives the extents of a merged image that nobody changes meanwhile. Takes the same little memory
/// for every size, and time for what the two files hold.
///
/// Thread safety: one thread at a time. Errors: those of the files.
class ExtentWalk {
 public:
  /// The files must outlive the walk.
  ExtentWalk(const Storage& cow, const Storage& backing, const CowLayout& layout);

  /// The next extent; neighbours never have the same source. Nothing after the last one.
  [[nodiscard]] std::optional<Extent> next();

 private:
  [[nodiscard]] std::optional<Extent> next_piece();

  std::uint64_t size_;
  MergedPieces pieces_;
  std::uint64_t at_ = 0;
  std::optional<Extent> ahead_;  // the piece after the last extent
};

}  // namespace cowfs::core
