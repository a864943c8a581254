#include "cowcore/extent_walk.hpp"

#include <algorithm>

namespace cowfs::core {

ExtentWalk::ExtentWalk(const Storage& cow, const Storage& backing, const CowLayout& layout)
    : layout_(layout),
      bitmap_(cow, layout),
      cow_(cow, layout.data_offset),
      backing_(backing, 0),
      run_(bitmap_.next()),
      ahead_(next_piece()) {}

std::optional<Extent> ExtentWalk::next() {
  auto extent = ahead_;
  if (!extent) return extent;
  while ((ahead_ = next_piece()) && ahead_->source == extent->source) {
    extent->length += ahead_->length;
  }
  return extent;
}

std::optional<Extent> ExtentWalk::next_piece() {
  if (at_ >= layout_.merged_size) return std::nullopt;
  const auto sector = at_ / sector_bytes;
  while (run_ && sector >= run_->end()) run_ = bitmap_.next();
  const bool in_cow = run_ && sector >= run_->first;
  const auto run_end =
      !run_ ? layout_.merged_size : (in_cow ? run_->end() : run_->first) * sector_bytes;
  const auto [is_data, piece_end] = (in_cow ? cow_ : backing_).at(at_);
  const auto end = std::min(run_end, piece_end);
  const Extent piece{at_, end - at_,
                     !is_data ? Source::zero
                     : in_cow ? Source::cow
                              : Source::backing};
  at_ = end;
  return piece;
}

}  // namespace cowfs::core
