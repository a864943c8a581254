#include "cowcore/sequential_reads.hpp"

namespace cowfs::core {

SequentialReads::SequentialReads() {
  for (auto& end : ends_) end = nowhere;
}

std::optional<std::uint64_t> SequentialReads::note(std::uint64_t offset, std::uint64_t length) {
  const auto end = offset + length;
  for (auto& last : ends_) {
    auto expected = offset;
    if (last != offset || !last.compare_exchange_strong(expected, end)) continue;
    // Each read that comes to a new stride asks for the one after it.
    if ((offset - 1) / stride == (end - 1) / stride) return std::nullopt;
    return ((end - 1) / stride + 1) * stride;
  }
  ends_[next_.fetch_add(1, std::memory_order_relaxed) % readers] = end;
  return std::nullopt;
}

}  // namespace cowfs::core
