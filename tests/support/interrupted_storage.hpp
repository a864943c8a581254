// A storage that lets a test act in the middle of things.
#pragma once

#include <functional>
#include <memory>

#include "tests/support/forwarding_storage.hpp"
#include "tests/support/operation_log.hpp"

namespace cowfs::tests {

enum class Moment { before, after };

/// What to do before and after each read, write, sync and punch; none if empty. It is set while
/// nobody uses the storage.
using Interruption = std::function<void(Operation, Moment)>;

class InterruptedStorage final : public ForwardingStorage {
 public:
  InterruptedStorage(std::unique_ptr<core::Storage> inner, std::shared_ptr<Interruption> hook)
      : ForwardingStorage(std::move(inner)), hook_(std::move(hook)) {}

  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override {
    interrupt(Operation::read, Moment::before);
    const auto count = ForwardingStorage::read(offset, into);
    interrupt(Operation::read, Moment::after);
    return count;
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    interrupt(Operation::write, Moment::before);
    ForwardingStorage::write(offset, from);
    interrupt(Operation::write, Moment::after);
  }
  void sync() override {
    interrupt(Operation::sync, Moment::before);
    ForwardingStorage::sync();
    interrupt(Operation::sync, Moment::after);
  }
  void punch(std::uint64_t offset, std::uint64_t length) override {
    interrupt(Operation::punch, Moment::before);
    ForwardingStorage::punch(offset, length);
    interrupt(Operation::punch, Moment::after);
  }

 private:
  void interrupt(Operation operation, Moment moment) const {
    if (*hook_) (*hook_)(operation, moment);
  }

  std::shared_ptr<Interruption> hook_;
};

}  // namespace cowfs::tests
