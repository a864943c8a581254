#include "tests/crash/subject.hpp"

#include <chrono>
#include <thread>

namespace cowfs::tests {

template <typename Change>
void FlushDriver::change(std::uint64_t offset, std::uint64_t length, Change&& change) {
  const auto first = offset / core::sector_bytes;
  const auto count = length / core::sector_bytes;
  map_.prepare(first, count);
  if (mutation_ == Mutation::bit_before_data) {
    map_.set(first, count);
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // room for a flush
    change();
  } else {
    change();
    map_.set(first, count);
  }
}

void FlushDriver::write(std::uint64_t offset, std::span<const std::byte> from) {
  change(offset, from.size(), [&] { cow_->write(layout_.data_offset + offset, from); });
}

void FlushDriver::zero(std::uint64_t offset, std::uint64_t length) {
  change(offset, length, [&] { cow_->punch(layout_.data_offset + offset, length); });
}

void FlushDriver::flush() {
  flushes_.run([this] { flush_once(); });
}

void FlushDriver::flush_once() {
  const auto take = [this] { map_.take_pending(taken_); };
  const auto sync = [this] { cow_->sync(); };
  const auto write = [this] { map_.write_pending(taken_); };
  switch (mutation_) {
    case Mutation::none:
    case Mutation::bit_before_data:
      take(), sync(), write(), sync();
      break;
    case Mutation::bitmap_before_data_sync:
      take(), write(), sync(), sync();
      break;
    case Mutation::words_after_sync:
      sync(), take(), write(), sync();
      break;
    case Mutation::no_first_sync:
      take(), write(), sync();
      break;
    case Mutation::no_second_sync:
      take(), sync(), write();
      break;
  }
  map_.settle(taken_);
}

}  // namespace cowfs::tests
