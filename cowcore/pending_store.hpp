// Where a sector map keeps the bits that are set and not yet on disk.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "cowcore/zeroed_array.hpp"

namespace cowfs::core {

/// An array of words, 64 bits each, all zero at first. Thread safety: all functions may be called
/// at once, save that for_each_used is for a time when nobody changes anything.
class PendingStore {
 public:
  PendingStore() = default;
  PendingStore(const PendingStore&) = delete;
  PendingStore& operator=(const PendingStore&) = delete;
  virtual ~PendingStore() = default;

  [[nodiscard]] virtual std::atomic<std::uint64_t>* words() = 0;

  /// Makes sure that the words can be written. Throws std::system_error.
  virtual void reserve(std::size_t first, std::size_t count) = 0;

  /// Calls function(first, count) for stretches of words outside of which all are zero.
  virtual void for_each_used(const std::function<void(std::size_t, std::size_t)>& function) = 0;

  /// Remembers that a flush has failed.
  virtual void note_failure() = 0;
  [[nodiscard]] virtual bool has_failed() const = 0;
};

/// Words in memory: gone when the process is.
class VolatilePending final : public PendingStore {
 public:
  explicit VolatilePending(std::size_t words) : words_(words) {}

  [[nodiscard]] std::atomic<std::uint64_t>* words() override { return words_.data(); }
  void reserve(std::size_t /*first*/, std::size_t /*count*/) override {}
  void for_each_used(const std::function<void(std::size_t, std::size_t)>& /*function*/) override {}
  void note_failure() override { failed_ = true; }
  [[nodiscard]] bool has_failed() const override { return failed_; }

 private:
  ZeroedArray<std::atomic<std::uint64_t>> words_;
  std::atomic<bool> failed_ = false;
};

}  // namespace cowfs::core
