#include "cowcore/bitmap_walk.hpp"

#include <algorithm>
#include <bit>
#include <span>

namespace cowfs::core {

std::optional<SectorRange> BitmapWalk::next() {
  const auto first = find_set(at_);
  at_ = first;
  if (first >= layout_.sectors_with_bit) return std::nullopt;
  at_ = find_clear(first);
  return SectorRange{first, at_ - first};
}

SectorNumber BitmapWalk::find_set(SectorNumber from) {
  while (from < layout_.sectors_with_bit) {
    const auto index = from / word_sectors;
    if (index < known_from_ || index >= known_to_) fill(index);
    if (index < data_word_) {
      from = data_word_ * word_sectors;
      continue;
    }
    const auto skip = from % word_sectors;
    const auto rest = words_[index - data_word_] >> skip << skip;
    if (rest != 0) {
      return std::min(index * word_sectors + static_cast<unsigned>(std::countr_zero(rest)),
                      layout_.sectors_with_bit);
    }
    from = (index + 1) * word_sectors;
  }
  return layout_.sectors_with_bit;
}

SectorNumber BitmapWalk::find_clear(SectorNumber from) {
  while (from < layout_.sectors_with_bit) {
    const auto index = from / word_sectors;
    if (index < known_from_ || index >= known_to_) fill(index);
    if (index < data_word_) return from;
    const auto skip = from % word_sectors;
    const auto rest = ~words_[index - data_word_] >> skip << skip;
    if (rest != 0) {
      return std::min(index * word_sectors + static_cast<unsigned>(std::countr_zero(rest)),
                      layout_.sectors_with_bit);
    }
    from = (index + 1) * word_sectors;
  }
  return layout_.sectors_with_bit;
}

/// Looks for the first data of the bitmap at or after `at`.
void BitmapWalk::ask(std::uint64_t at) {
  const auto bitmap_end = layout_.bitmap_offset + layout_.bitmap_length;
  data_begin_ = cow_.next_data(at).value_or(bitmap_end);
  data_end_ = data_begin_ < bitmap_end ? cow_.next_hole(data_begin_) : bitmap_end;
}

void BitmapWalk::fill(std::size_t word) {
  const auto bitmap_end = layout_.bitmap_offset + layout_.bitmap_length;
  const auto at = layout_.bitmap_offset + word * sizeof(Word);
  if (at < data_begin_ || at >= data_end_) ask(at);
  known_from_ = word;
  if (data_begin_ >= bitmap_end) {
    data_word_ = known_to_ = (layout_.sectors_with_bit + word_sectors - 1) / word_sectors;
    return;
  }
  const auto data = std::max(at, data_begin_) - layout_.bitmap_offset;
  data_word_ = data / sizeof(Word);
  const auto begin = data_word_ * sizeof(Word);
  const auto end = std::min(data_end_, bitmap_end) - layout_.bitmap_offset;
  const auto words = std::min(words_.size(), (end - begin + sizeof(Word) - 1) / sizeof(Word));
  const auto buffer = std::as_writable_bytes(std::span(words_).first(words));
  const auto wanted = std::min<std::uint64_t>(buffer.size(), layout_.bitmap_length - begin);
  const auto count = cow_.read(layout_.bitmap_offset + begin, buffer.first(wanted));
  std::ranges::fill(buffer.subspan(count), std::byte{});
  for (auto& value : std::span(words_).first(words)) value = swap_if_big(value);
  known_to_ = data_word_ + words;
}

}  // namespace cowfs::core
