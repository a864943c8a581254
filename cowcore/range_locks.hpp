// Locks on parts of the image, a fixed number of them for an image of any size.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <shared_mutex>

namespace cowfs::core {

/// The image is cut into regions of 1 MiB, dealt out to 32 locks in turn. A range locks all of its
/// regions' locks, in ascending order of the lock, so that two ranges can't wait for each other.
/// (Not more of them: ThreadSanitizer follows at most 63 locks that a thread holds.)
///
/// Lock order: these are taken first; nothing that is called while they are held takes one again.
class RangeLocks {
 public:
  class Shared;
  class Exclusive;

 private:
  static constexpr std::uint64_t region_bytes = std::uint64_t{1} << 20;
  static constexpr unsigned count = 32;
  using Locks = std::uint32_t;  // a bit each

  static Locks locks_of(std::uint64_t offset, std::uint64_t length) {
    const auto first = offset / region_bytes;
    const auto regions = (offset + length - 1) / region_bytes - first + 1;
    if (regions >= count) return ~Locks{0};
    const auto ones = (Locks{1} << regions) - 1;
    return std::rotl(ones, static_cast<int>(first % count));
  }

  template <typename Function>
  static void for_each(Locks locks, Function&& function) {
    for (; locks != 0; locks &= locks - 1) function(std::countr_zero(locks));
  }

  std::shared_mutex& at(int index) { return mutexes_[static_cast<unsigned>(index)]; }

  std::array<std::shared_mutex, count> mutexes_;
};

/// Holds a range (at least 1 byte) together with others that hold it shared.
class RangeLocks::Shared {
 public:
  Shared(RangeLocks& locks, std::uint64_t offset, std::uint64_t length)
      : locks_(locks), held_(locks_of(offset, length)) {
    for_each(held_, [this](int i) { locks_.at(i).lock_shared(); });
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() {
    for_each(held_, [this](int i) { locks_.at(i).unlock_shared(); });
  }

 private:
  RangeLocks& locks_;
  Locks held_;
};

/// Holds a range (at least 1 byte) alone.
class RangeLocks::Exclusive {
 public:
  Exclusive(RangeLocks& locks, std::uint64_t offset, std::uint64_t length)
      : locks_(locks), held_(locks_of(offset, length)) {
    for_each(held_, [this](int i) { locks_.at(i).lock(); });
  }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;
  ~Exclusive() {
    for_each(held_, [this](int i) { locks_.at(i).unlock(); });
  }

 private:
  RangeLocks& locks_;
  Locks held_;
};

}  // namespace cowfs::core
