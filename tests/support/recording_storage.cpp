#include "tests/support/recording_storage.hpp"

namespace cowfs::tests {

// An operation that throws is left without an end: it may have taken effect or not.

void RecordingStorage::write(std::uint64_t offset, std::span<const std::byte> from) {
  const auto index = log_->begin({.operation = Operation::write,
                                  .offset = offset,
                                  .length = from.size(),
                                  .bytes = {from.begin(), from.end()}});
  ForwardingStorage::write(offset, from);
  log_->end(index);
}

void RecordingStorage::sync() {
  const auto index = log_->begin({.operation = Operation::sync});
  ForwardingStorage::sync();
  log_->end(index);
}

void RecordingStorage::punch(std::uint64_t offset, std::uint64_t length) {
  const auto index =
      log_->begin({.operation = Operation::punch, .offset = offset, .length = length});
  ForwardingStorage::punch(offset, length);
  log_->end(index);
}

void RecordingStorage::reserve(std::uint64_t offset, std::uint64_t length) {
  const auto index =
      log_->begin({.operation = Operation::reserve, .offset = offset, .length = length});
  ForwardingStorage::reserve(offset, length);
  log_->end(index);
}

void RecordingStorage::resize(std::uint64_t size) {
  const auto index = log_->begin({.operation = Operation::resize, .offset = size});
  ForwardingStorage::resize(size);
  log_->end(index);
}

}  // namespace cowfs::tests
