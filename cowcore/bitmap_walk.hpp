// Walking over the bitmap in a COW file, from its start to its end.
#pragma once

#include <optional>

#include "cowcore/bitmap_reader.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/extent.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Gives the runs of sectors that are in the COW, as the file has them.
///
/// Thread safety: one thread at a time. Errors: those of the file.
class BitmapWalk {
 public:
  /// `cow` must outlive the walk.
  BitmapWalk(const Storage& cow, const CowLayout& layout)
      : bitmap_(cow, layout), end_(layout.sectors_with_bit) {}

  /// The next run, as long as it can be; nothing after the last one.
  [[nodiscard]] std::optional<SectorRange> next() {
    while (at_ < end_) {
      const auto first = at_;
      const auto run = bitmap_.run(first, end_ - first);
      at_ += run.length;
      if (run.in_cow) return SectorRange{first, run.length};
    }
    return std::nullopt;
  }

 private:
  BitmapReader bitmap_;
  SectorNumber end_;
  SectorNumber at_ = 0;
};

}  // namespace cowfs::core
