#include "cowcore/mapped_windows.hpp"

namespace cowfs::core {

void MappedWindows::Pin::reset() {
  if (slot_ == nullptr) return;
  slot_->pins.fetch_sub(1, std::memory_order_release);
  slot_ = nullptr;
}

MappedWindows::Pin MappedWindows::acquire(std::uint64_t offset) {
  const auto window = offset / window_bytes;
  auto& set = sets_[window % sets];
  const std::lock_guard guard(set.mutex);
  Slot* chosen = nullptr;
  for (auto& slot : set.slots) {
    if (slot.mapping.data() != nullptr && slot.window == window) {
      chosen = &slot;
      break;
    }
    const bool pinned = slot.pins.load(std::memory_order_acquire) != 0;
    if (!pinned && (chosen == nullptr || slot.last_use < chosen->last_use)) chosen = &slot;
  }
  if (chosen == nullptr) return {};
  if (chosen->mapping.data() == nullptr || chosen->window != window) {
    chosen->mapping = Mapping();  // first, so that the two never cost page tables together
    auto mapping = file_.map(window * window_bytes, window_bytes);
    if (!mapping) return {};
    chosen->mapping = std::move(*mapping);
    chosen->window = window;
  }
  chosen->last_use = ++set.uses;
  chosen->pins.fetch_add(1, std::memory_order_relaxed);
  Pin pin;
  pin.slot_ = chosen;
  pin.file_ = this;
  pin.data_ = chosen->mapping.data();
  pin.begin_ = window * window_bytes;
  return pin;
}

}  // namespace cowfs::core
