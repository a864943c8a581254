#include "cowcore/extent_walk.hpp"

namespace cowfs::core {
namespace {

Source source_of(const MergedPiece& piece) {
  if (piece.content == MergedPiece::Content::hole) return Source::zero;
  return piece.in_cow ? Source::cow : Source::backing;
}

}  // namespace

ExtentWalk::ExtentWalk(const Storage& cow, const Storage& backing, const CowLayout& layout)
    : size_(layout.merged_size), pieces_(cow, backing, layout), ahead_(next_piece()) {}

std::optional<Extent> ExtentWalk::next() {
  auto extent = ahead_;
  if (!extent) return extent;
  while ((ahead_ = next_piece()) && ahead_->source == extent->source) {
    extent->length += ahead_->length;
  }
  return extent;
}

std::optional<Extent> ExtentWalk::next_piece() {
  if (at_ >= size_) return std::nullopt;
  const auto piece = pieces_.known_at(at_);
  at_ = piece.end();
  return Extent{piece.offset, piece.length, source_of(piece)};
}

}  // namespace cowfs::core
