#include "cowcore/bitmap_reader.hpp"

#include <algorithm>
#include <bit>
#include <span>

namespace cowfs::core {
namespace {

constexpr SectorCount word_sectors = 64;

}  // namespace

BitmapReader::BitmapReader(const Storage& cow, const CowLayout& layout)
    : cow_(cow), layout_(layout), words_(piece_bytes / sizeof(std::uint64_t)) {}

/// Whether the bytes of the file lie in a hole. One question serves many pieces.
bool BitmapReader::is_hole(std::uint64_t begin, std::uint64_t end) {
  if (begin < hole_begin_ || begin >= data_end_) {
    hole_begin_ = begin;
    hole_end_ = cow_.next_data(begin).value_or(~std::uint64_t{0});
    data_end_ = hole_end_ == ~std::uint64_t{0} ? hole_end_ : cow_.next_hole(hole_end_);
  }
  return end <= hole_end_;
}

void BitmapReader::load(std::uint64_t piece) {
  if (piece == loaded_) return;
  const auto offset = piece * piece_bytes;
  const auto length = std::min<std::uint64_t>(piece_bytes, layout_.bitmap_length - offset);
  const auto begin = layout_.bitmap_offset + offset;
  loaded_is_empty_ = is_hole(begin, begin + length);
  if (!loaded_is_empty_) {
    const auto bytes = std::as_writable_bytes(std::span(words_));
    const auto count = cow_.read(begin, bytes.first(length));
    std::ranges::fill(bytes.subspan(count), std::byte{});
    for (auto& word : words_) word = swap_if_big(word);
  }
  loaded_ = piece;
}

/// The first sector whose word reaches behind the hole found last: an empty bitmap of petabytes is
/// passed in one step.
SectorNumber BitmapReader::first_after_hole() const {
  const auto bitmap_end = layout_.bitmap_offset + layout_.bitmap_length;
  return round_down((std::min(hole_end_, bitmap_end) - layout_.bitmap_offset) * 8, word_sectors);
}

/// The first sector in [from, end), all in the loaded piece, whose bit differs from `invert`'s.
SectorNumber BitmapReader::scan(SectorNumber from, SectorNumber end, std::uint64_t invert) const {
  const auto base = loaded_ * piece_sectors;
  auto skip = from % word_sectors;
  for (auto at = round_down(from, word_sectors); at < end; at += word_sectors) {
    const auto rest = (words_[(at - base) / word_sectors] ^ invert) >> skip << skip;
    skip = 0;
    if (rest != 0) return std::min(at + static_cast<SectorCount>(std::countr_zero(rest)), end);
  }
  return end;
}

/// The first sector in [from, end) that has that state; `end` if there is none.
SectorNumber BitmapReader::find(bool state, SectorNumber from, SectorNumber end) {
  const auto last = std::min(end, layout_.sectors_with_bit);
  while (from < last) {
    const auto piece = from / piece_sectors;
    const auto piece_end = std::min(last, (piece + 1) * piece_sectors);
    load(piece);
    if (loaded_is_empty_) {
      if (!state) return from;
      from = std::max(piece_end, first_after_hole());
      continue;
    }
    const auto found = scan(from, piece_end, state ? 0 : ~std::uint64_t{0});
    if (found < piece_end) return found;
    from = piece_end;
  }
  return state ? end : std::min(from, end);
}

BitmapReader::Run BitmapReader::run(SectorNumber first, SectorCount limit) {
  const auto end = first + limit;
  const bool in_cow = find(true, first, first + 1) == first;
  return {find(!in_cow, first + 1, end) - first, in_cow};
}

}  // namespace cowfs::core
