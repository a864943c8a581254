// A storage that fails when it is told to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/support/forwarding_storage.hpp"
#include "tests/support/operation_log.hpp"

namespace cowfs::tests {

/// Which operations are to fail. A test keeps it and hands a copy of the pointer to the storage.
/// Thread safety: all functions may be called at once.
class FaultPlan {
 public:
  struct Fault {
    /// Nothing: any operation counts.
    std::optional<Operation> operation = {};
    /// Fails the n-th from now on; 1 is the next.
    std::uint64_t nth = 1;
    int error = 5;  // EIO
    /// Not only the n-th but all that follow.
    bool lasting = false;
    /// Of a write: how much of it reaches the file before it fails.
    std::size_t bytes_before = 0;
    /// Only operations that begin at this offset or after it. (A sync and a seek begin at 0.)
    std::uint64_t from_offset = 0;
  };

  void add(const Fault& fault);
  /// Forgets all faults.
  void heal();
  /// How many operations were made to fail.
  [[nodiscard]] std::uint64_t failures() const;

  /// Counts the operation; returns the fault if it is to fail.
  std::optional<Fault> hit(Operation operation, std::uint64_t offset);

 private:
  mutable std::mutex mutex_;
  std::vector<Fault> faults_;
  std::uint64_t failures_ = 0;
};

class FaultyStorage final : public ForwardingStorage {
 public:
  FaultyStorage(std::unique_ptr<core::Storage> inner, std::shared_ptr<FaultPlan> plan)
      : ForwardingStorage(std::move(inner)), plan_(std::move(plan)) {}

  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;
  void sync() override;
  void punch(std::uint64_t offset, std::uint64_t length) override;
  void reserve(std::uint64_t offset, std::uint64_t length) override;
  void resize(std::uint64_t size) override;
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override;
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override;
  [[nodiscard]] std::optional<core::Mapping> map(std::uint64_t offset,
                                                 std::size_t length) const override;

 private:
  void fail_if_planned(Operation operation, std::uint64_t offset) const;

  std::shared_ptr<FaultPlan> plan_;
};

}  // namespace cowfs::tests
