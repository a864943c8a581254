// Pieces of a large file mapped into memory, a bounded number at a time.
//
// A mapping costs page tables: 2 MiB for each GiB that was touched. So a file is mapped in windows,
// and the window that was not used for longest makes room for the next.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>

#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Thread safety: acquire may be called from several threads at once; a Pin belongs to one thread.
class MappedWindows {
  struct Slot;

 public:
  static constexpr std::uint64_t window_bytes = std::uint64_t{32} << 20;
  static constexpr std::size_t sets = 16;
  static constexpr std::size_t ways = 4;  // 64 windows: 2 GiB mapped, 4 MiB of page tables at most

  /// Keeps a window mapped while it exists.
  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& other) noexcept
        : slot_(std::exchange(other.slot_, nullptr)),
          file_(other.file_),
          data_(other.data_),
          begin_(other.begin_) {}
    Pin& operator=(Pin&& other) noexcept {
      std::swap(slot_, other.slot_);
      std::swap(file_, other.file_);
      std::swap(data_, other.data_);
      std::swap(begin_, other.begin_);
      return *this;
    }
    ~Pin() { reset(); }
    void reset();

    explicit operator bool() const { return slot_ != nullptr; }
    /// Whether it pins the window of `file` that holds `offset`.
    [[nodiscard]] bool covers(const MappedWindows& file, std::uint64_t offset) const {
      return slot_ != nullptr && file_ == &file && offset - begin_ < window_bytes;
    }
    /// The bytes from file offset `offset` to the end of the window.
    [[nodiscard]] std::pair<const std::byte*, std::uint64_t> from(std::uint64_t offset) const {
      return {data_ + (offset - begin_), window_bytes - (offset - begin_)};
    }

   private:
    friend class MappedWindows;
    Slot* slot_ = nullptr;
    const MappedWindows* file_ = nullptr;
    const std::byte* data_ = nullptr;
    std::uint64_t begin_ = 0;
  };

  /// `file` must outlive this object.
  explicit MappedWindows(const Storage& file) : file_(file) {}

  /// Pins the window that holds `offset`. The pin is empty if the file can't be mapped now, all
  /// windows that could make room are pinned, or one would have to make room for a window that is
  /// wanted for the first time, which takes longer than a short read: read instead.
  [[nodiscard]] Pin acquire(std::uint64_t offset);

  /// As Storage::prefetch.
  void prefetch(std::uint64_t offset, std::uint64_t length) const {
    file_.prefetch(offset, length);
  }

 private:
  static constexpr std::uint64_t no_window = UINT64_MAX;

  struct Slot {
    std::uint64_t window = 0;
    std::uint64_t last_use = 0;
    std::atomic<unsigned> pins = 0;  // goes up only under the set's mutex
    Mapping mapping;

    [[nodiscard]] bool holds(std::uint64_t which) const {
      return mapping.data() != nullptr && window == which;
    }
  };
  struct Set {
    std::mutex mutex;
    std::uint64_t uses = 0;
    std::uint64_t wanted = no_window;  ///< the last one that was not mapped
    std::array<Slot, ways> slots;
  };

  static Slot* choose(Set& set, std::uint64_t window);
  bool map(Set& set, Slot& slot, std::uint64_t window);

  const Storage& file_;
  std::array<Set, sets> sets_;
};

}  // namespace cowfs::core
