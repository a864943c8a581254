// Bits over a huge range, few of them set, that are found without looking at the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "cowcore/zeroed_array.hpp"

namespace cowfs::core {

/// `size` bits, all clear at first. Costs memory only around the bits that were set.
///
/// Thread safety: all functions may be called at once, save that `take` is for one thread at a
/// time. Whoever finds a bit set by `test` or `find` sees what its setter did before.
class SparseBits {
 public:
  explicit SparseBits(std::size_t size)
      : bits_((size + 63) / 64), pages_((size + page_bits * 64 - 1) / (page_bits * 64)) {}

  [[nodiscard]] bool test(std::size_t i) const {
    return (bits_[i / 64].load(std::memory_order_acquire) >> (i % 64) & 1) != 0;
  }

  void set(std::size_t i) {
    // The page is marked twice: before, so that a bit which `test` shows is one that `find` finds;
    // and after, since `take` may have cleared the mark before it could see the bit.
    mark(pages_, i / page_bits);
    mark(bits_, i);
    mark(pages_, i / page_bits);
  }

  /// The first bit that is set in [from, end), or `end`.
  [[nodiscard]] std::size_t find(std::size_t from, std::size_t end) const {
    const auto pages = (end + page_bits - 1) / page_bits;
    while (from < end) {
      const auto page = first_set(pages_, from / page_bits, pages);
      if (page == pages) return end;
      const auto limit = std::min(end, (page + 1) * page_bits);
      const auto found = first_set(bits_, std::max(from, page * page_bits), limit);
      if (found < limit) return found;
      from = limit;
    }
    return end;
  }

  /// Clears every bit, and calls function(i) for each that was set. A bit that is set meanwhile is
  /// taken now or the next time.
  template <typename Function>
  void take(Function&& function) {
    take_words(pages_, 0, pages_.size(), [&](std::size_t page) {
      const auto first = page * (page_bits / 64);
      take_words(bits_, first, std::min(bits_.size(), first + page_bits / 64), function);
    });
  }

 private:
  using Word = std::uint64_t;
  using Words = ZeroedArray<std::atomic<Word>>;
  static constexpr std::size_t page_bits = std::size_t{4096} * 8;  // a page of memory

  static void mark(Words& words, std::size_t i) {
    words[i / 64].fetch_or(Word{1} << (i % 64), std::memory_order_acq_rel);
  }

  static std::size_t first_set(const Words& words, std::size_t from, std::size_t end) {
    if (from >= end) return end;
    auto index = from / 64;
    auto word = words[index].load(std::memory_order_acquire) >> (from % 64) << (from % 64);
    while (word == 0) {
      if (++index * 64 >= end) return end;
      word = words[index].load(std::memory_order_acquire);
    }
    return std::min(end, index * 64 + static_cast<std::size_t>(std::countr_zero(word)));
  }

  template <typename Function>
  static void take_words(Words& words, std::size_t first, std::size_t end, Function&& function) {
    for (auto index = first; index < end; ++index) {
      if (words[index].load(std::memory_order_relaxed) == 0) continue;
      auto word = words[index].exchange(0, std::memory_order_acq_rel);
      for (; word != 0; word &= word - 1) {
        function(index * 64 + static_cast<std::size_t>(std::countr_zero(word)));
      }
    }
  }

  Words bits_;
  Words pages_;  // a bit for each page of bits_ that may have one set
};

}  // namespace cowfs::core
