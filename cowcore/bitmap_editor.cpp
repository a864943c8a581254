#include "cowcore/bitmap_editor.hpp"

#include <algorithm>
#include <span>

namespace cowfs::core {

BitmapEditor::BitmapEditor(Storage& cow, const CowLayout& layout)
    : cow_(cow), layout_(layout), bytes_(piece_bytes) {}

void BitmapEditor::load(std::uint64_t piece) {
  if (piece == loaded_) return;
  finish();
  const auto offset = piece * piece_bytes;
  const auto length = std::min(piece_bytes, layout_.bitmap_length - offset);
  const auto count = cow_.read(layout_.bitmap_offset + offset, std::span(bytes_).first(length));
  std::ranges::fill(std::span(bytes_).subspan(count), std::byte{});
  loaded_ = piece;
}

void BitmapEditor::change(SectorNumber first, SectorCount count, bool state) {
  for (auto sector = first; sector < first + count;) {
    load(sector / 8 / piece_bytes);
    const auto at = sector / 8 % piece_bytes;
    const auto bit = sector % 8;
    const auto bits = std::min<SectorCount>(8 - bit, first + count - sector);
    const auto mask = static_cast<std::byte>(((1U << bits) - 1) << bit);
    if (state) {
      bytes_[at] |= mask;
    } else {
      bytes_[at] &= ~mask;
    }
    changed_begin_ = std::min(changed_begin_, at);
    changed_end_ = std::max(changed_end_, at + 1);
    sector += bits;
  }
}

void BitmapEditor::finish() {
  if (changed_begin_ < changed_end_) {
    const auto offset = layout_.bitmap_offset + loaded_ * piece_bytes + changed_begin_;
    cow_.write(offset, std::span(bytes_).subspan(changed_begin_, changed_end_ - changed_begin_));
  }
  changed_begin_ = piece_bytes;
  changed_end_ = 0;
}

}  // namespace cowfs::core
