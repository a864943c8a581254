#include "tests/fuzz/sparse_model.hpp"

#include <algorithm>

namespace cowfs::tests {

using core::sector_bytes;

SparseModel::Sector SparseModel::original(core::SectorNumber number) const {
  Sector sector{};
  std::byte bits{};
  if (number < layout_.sectors_with_bit) {
    cow_->read(layout_.bitmap_offset + number / 8, std::span(&bits, 1));
  }
  const auto offset = number * sector_bytes;
  if ((bits >> (number % 8) & std::byte{1}) != std::byte{}) {
    cow_->read(layout_.data_offset + offset, sector);
  } else if (offset < layout_.backing_size) {
    const auto length = std::min(sector_bytes, layout_.backing_size - offset);
    backing_->read(offset, std::span(sector).first(length));
  }
  return sector;
}

SparseModel::Sector SparseModel::present(core::SectorNumber number) const {
  if (const auto found = changed_.find(number); found != changed_.end()) return found->second;
  const bool is_zeroed = std::ranges::any_of(zeroed_, [number](const Range& range) {
    return range.first <= number && number < range.end;
  });
  return is_zeroed ? Sector{} : original(number);
}

std::vector<std::byte> SparseModel::read(std::uint64_t offset, std::size_t length) const {
  std::vector<std::byte> bytes;
  while (bytes.size() < length) {
    const auto at = offset + bytes.size();
    const auto sector = present(at / sector_bytes);
    const auto within = at % sector_bytes;
    const auto piece = std::min<std::size_t>(length - bytes.size(), sector_bytes - within);
    const auto part = std::span(sector).subspan(within, piece);
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  return bytes;
}

void SparseModel::write(std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    auto sector = present(offset / sector_bytes);
    const auto within = offset % sector_bytes;
    const auto piece = std::min<std::size_t>(from.size(), sector_bytes - within);
    std::ranges::copy(from.first(piece), sector.begin() + static_cast<std::ptrdiff_t>(within));
    changed_[offset / sector_bytes] = sector;
    from = from.subspan(piece);
    offset += piece;
  }
}

void SparseModel::zero(std::uint64_t offset, std::uint64_t length) {
  const std::vector<std::byte> zeros(sector_bytes);
  const auto end = offset + length;
  const auto first = (offset + sector_bytes - 1) / sector_bytes;
  const auto last = end / sector_bytes;
  if (first >= last) {
    write(offset, std::span(zeros).first(std::min(length, first * sector_bytes - offset)));
    const auto rest = std::max(offset, std::min(end, first * sector_bytes));
    write(rest, std::span(zeros).first(end - rest));
    return;
  }
  write(offset, std::span(zeros).first(first * sector_bytes - offset));
  write(last * sector_bytes, std::span(zeros).first(end - last * sector_bytes));
  std::erase_if(changed_,
                [=](const auto& entry) { return first <= entry.first && entry.first < last; });
  zeroed_.push_back({first, last});
}

std::vector<core::SectorNumber> SparseModel::changed() const {
  std::vector<core::SectorNumber> numbers;
  for (const auto& [number, sector] : changed_) numbers.push_back(number);
  for (const auto& range : zeroed_) {
    numbers.push_back(range.first);
    numbers.push_back(range.end - 1);
  }
  return numbers;
}

}  // namespace cowfs::tests
