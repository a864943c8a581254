#include "cowcore/read_view.hpp"

#include <algorithm>

#include "cowcore/zeroed_array.hpp"

namespace cowfs::core {
namespace {

/// Never written, so all of it is the kernel's one page of zeros.
constexpr std::size_t zeros_length = std::size_t{1} << 20;

/// Longer reads are read from the disk at once, shorter ones page by page as they are touched.
constexpr std::size_t shortest_prefetch = std::size_t{16} << 10;

const std::byte* zeros() {
  static const ZeroedArray<std::byte> array(zeros_length);
  return &array[0];
}

}  // namespace

ReadView::ReadView(std::size_t longest)
    : longest_(longest), scratch_(std::make_unique_for_overwrite<std::byte[]>(longest)) {
  pieces_.reserve(longest / 4096 + 16);
  pins_.reserve(8);
}

void ReadView::clear() {
  pieces_.clear();
  pins_.clear();
  scratch_used_ = 0;
}

void ReadView::add_memory(const std::byte* data, std::size_t length) {
  if (!pieces_.empty()) {
    auto& last = pieces_.back();
    if (static_cast<const std::byte*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += length;
      return;
    }
  }
  // iovec has no const form; writev only reads.
  pieces_.push_back({const_cast<std::byte*>(data), length});
}

void ReadView::add_zeros(std::size_t length) {
  while (length > 0) {
    const auto piece = std::min(length, zeros_length);
    pieces_.push_back({const_cast<std::byte*>(zeros()), piece});
    length -= piece;
  }
}

/// The pin of the window that holds `offset`: one that is there already, or a new one.
const MappedWindows::Pin* ReadView::pin(MappedWindows& file, std::uint64_t offset) {
  for (const auto& pin : pins_) {
    if (pin.covers(file, offset)) return &pin;
  }
  auto pin = file.acquire(offset);
  return pin ? &pins_.emplace_back(std::move(pin)) : nullptr;
}

bool ReadView::add_mapped(MappedWindows& file, std::uint64_t offset, std::size_t length) {
  if (length >= shortest_prefetch) file.prefetch(offset, length);
  const auto pieces_before = pieces_.size();
  const auto length_before = pieces_.empty() ? 0 : pieces_.back().iov_len;
  while (length > 0) {
    const auto* window = pin(file, offset);
    if (window == nullptr) {
      pieces_.resize(pieces_before);
      if (pieces_before > 0) pieces_.back().iov_len = length_before;
      return false;
    }
    const auto [data, available] = window->from(offset);
    const auto piece = std::min<std::uint64_t>(length, available);
    add_memory(data, piece);
    offset += piece;
    length -= piece;
  }
  return true;
}

const std::byte* ReadView::find_mapped(MappedWindows& file, std::uint64_t offset,
                                       std::size_t length) {
  const auto* window = pin(file, offset);
  if (window == nullptr) return nullptr;
  const auto [data, available] = window->from(offset);
  return length <= available ? data : nullptr;
}

std::span<std::byte> ReadView::add_scratch(std::size_t length) {
  const std::span room(scratch_.get() + scratch_used_, length);
  scratch_used_ += length;
  add_memory(room.data(), length);
  return room;
}

}  // namespace cowfs::core
