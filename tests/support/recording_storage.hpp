// A storage that writes down what is done to it.
#pragma once

#include <memory>

#include "tests/support/forwarding_storage.hpp"
#include "tests/support/operation_log.hpp"

namespace cowfs::tests {

/// Logs each write, punch, resize, reserve and sync, with the bytes of a write: enough to work out
/// what may be on disk after a power loss at any moment.
class RecordingStorage final : public ForwardingStorage {
 public:
  RecordingStorage(std::unique_ptr<core::Storage> inner, std::shared_ptr<OperationLog> log)
      : ForwardingStorage(std::move(inner)), log_(std::move(log)) {}

  void write(std::uint64_t offset, std::span<const std::byte> from) override;
  void sync() override;
  void punch(std::uint64_t offset, std::uint64_t length) override;
  void reserve(std::uint64_t offset, std::uint64_t length) override;
  void resize(std::uint64_t size) override;

 private:
  std::shared_ptr<OperationLog> log_;
};

}  // namespace cowfs::tests
