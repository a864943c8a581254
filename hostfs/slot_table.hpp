// Numbers for objects that the other end names, and that it can't make up.
//
// A node id or a file handle is sent to the kernel and comes back. Were it a pointer, whoever can
// write into the connection could have any memory used as an object. Here it is an index and a
// generation: a number that was never given out, or whose object is gone, is found to be so, also
// when the slot has been used again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace cowfs::hostfs {

/// Objects keep their address while they are there. Not thread-safe: its owner has a lock.
template <typename T>
class SlotTable {
 public:
  explicit SlotTable(std::uint32_t limit) : limit_(limit) {}

  [[nodiscard]] std::uint32_t size() const { return size_; }
  [[nodiscard]] bool is_full() const { return size_ >= limit_; }

  /// Puts an object into a slot that is free, and returns its number, which is at least 2^32; 0 if
  /// the table is full. Throws std::bad_alloc.
  std::uint64_t insert(T value) {
    if (is_full()) return 0;
    const auto index = take_free_slot();
    auto& slot = slot_at(index);
    slot.value.emplace(std::move(value));
    ++size_;
    return number(index);
  }

  /// The object that has this number; null if there is none.
  [[nodiscard]] T* find(std::uint64_t id) {
    const auto index = static_cast<std::uint32_t>(id);
    if (index >= used_) return nullptr;
    auto& slot = slot_at(index);
    return slot.value && slot.generation == id >> 32 ? &*slot.value : nullptr;
  }

  /// The object in a slot that is known to be in use.
  [[nodiscard]] T& at(std::uint32_t index) { return *slot_at(index).value; }
  /// The number of the object in a slot that is in use.
  [[nodiscard]] std::uint64_t number(std::uint32_t index) {
    return std::uint64_t{slot_at(index).generation} << 32 | index;
  }

  /// Takes out the object in a slot that is in use. Its number will not be given out again before
  /// 2^32 others of the same slot.
  T remove(std::uint32_t index) {
    auto& slot = slot_at(index);
    T value = std::move(*slot.value);
    slot.value.reset();
    if (++slot.generation == 0) slot.generation = 1;
    slot.next_free = first_free_;
    first_free_ = index;
    --size_;
    return value;
  }

  /// Calls `visit(index, object)` for all that are there.
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (std::uint32_t index = 0; index < used_; ++index) {
      auto& slot = slot_at(index);
      if (slot.value) visit(index, *slot.value);
    }
  }

  /// Goes once round, from slot `cursor` on, as long as `visit(index, object)` returns true, and
  /// leaves `cursor` behind the last one visited.
  template <typename Visit>
  void for_each_from(std::uint32_t& cursor, Visit&& visit) {
    for (std::uint32_t i = 0; i < used_; ++i) {
      if (cursor >= used_) cursor = 0;
      auto& slot = slot_at(cursor);
      const auto index = cursor++;
      if (slot.value && !visit(index, *slot.value)) return;
    }
  }

 private:
  static constexpr std::uint32_t none = 0xffffffff;
  static constexpr std::uint32_t chunk_slots = 256;

  struct Slot {
    std::optional<T> value;
    std::uint32_t generation = 1;
    std::uint32_t next_free = none;
  };

  Slot& slot_at(std::uint32_t index) { return chunks_[index / chunk_slots][index % chunk_slots]; }

  std::uint32_t take_free_slot() {
    if (first_free_ != none) return std::exchange(first_free_, slot_at(first_free_).next_free);
    if (used_ % chunk_slots == 0) chunks_.push_back(std::make_unique<Slot[]>(chunk_slots));
    return used_++;
  }

  std::uint32_t limit_;
  std::uint32_t size_ = 0;
  std::uint32_t used_ = 0;  ///< slots that have ever been in use
  std::uint32_t first_free_ = none;
  std::vector<std::unique_ptr<Slot[]>> chunks_;
};

}  // namespace cowfs::hostfs
