#include "cowcore/mapped_windows.hpp"

namespace cowfs::core {

void MappedWindows::Pin::reset() {
  if (slot_ == nullptr) return;
  slot_->pins.fetch_sub(1, std::memory_order_release);
  slot_ = nullptr;
}

/// The slot of the window, or else the one that is to make room for it; null if none can.
MappedWindows::Slot* MappedWindows::choose(Set& set, std::uint64_t window) {
  Slot* oldest = nullptr;
  for (auto& slot : set.slots) {
    if (slot.holds(window)) return &slot;
    const bool pinned = slot.pins.load(std::memory_order_acquire) != 0;
    if (!pinned && (oldest == nullptr || slot.last_use < oldest->last_use)) oldest = &slot;
  }
  return oldest;
}

/// Maps the window, unless something would have to make room for the first who wants it.
bool MappedWindows::map(Set& set, Slot& slot, std::uint64_t window) {
  const bool wanted_before = std::exchange(set.wanted, window) == window;
  if (slot.mapping.data() != nullptr && !wanted_before) return false;
  slot.mapping = Mapping();  // first, so that the two never cost page tables together
  auto mapping = file_.map(window * window_bytes, window_bytes);
  if (!mapping) return false;
  slot.mapping = std::move(*mapping);
  slot.window = window;
  return true;
}

MappedWindows::Pin MappedWindows::acquire(std::uint64_t offset) {
  const auto window = offset / window_bytes;
  auto& set = sets_[window % sets];
  const std::lock_guard guard(set.mutex);
  auto* slot = choose(set, window);
  if (slot == nullptr || (!slot->holds(window) && !map(set, *slot, window))) return {};
  slot->last_use = ++set.uses;
  slot->pins.fetch_add(1, std::memory_order_relaxed);
  Pin pin;
  pin.slot_ = slot;
  pin.file_ = this;
  pin.data_ = slot->mapping.data();
  pin.begin_ = window * window_bytes;
  return pin;
}

}  // namespace cowfs::core
