#include "tests/crash/disk.hpp"

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "tests/support/recording_storage.hpp"

namespace cowfs::tests {

void Death::strike() {
  if (left_.load(std::memory_order_relaxed) == INT64_MAX) return;
  if (left_.fetch_sub(1) <= 0) throw std::system_error(EIO, std::generic_category(), "died");
}

/// One change at a time, and none after death.
class Disk::Ordered final : public ForwardingStorage {
 public:
  Ordered(std::unique_ptr<core::Storage> inner, std::shared_ptr<Shared> shared,
          std::shared_ptr<Death> death)
      : ForwardingStorage(std::move(inner)), shared_(std::move(shared)), death_(std::move(death)) {}

  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    change([&] { ForwardingStorage::write(offset, from); });
  }
  void punch(std::uint64_t offset, std::uint64_t length) override {
    change([&] { ForwardingStorage::punch(offset, length); });
  }
  void reserve(std::uint64_t offset, std::uint64_t length) override {
    change([&] { ForwardingStorage::reserve(offset, length); });
  }
  void resize(std::uint64_t size) override {
    change([&] { ForwardingStorage::resize(size); });
  }
  void sync() override {
    death_->strike();
    ForwardingStorage::sync();
  }

 private:
  template <typename Change>
  void change(Change&& change) {
    const std::lock_guard guard(shared_->changes);
    death_->strike();
    change();
    ++shared_->operations;
  }

  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Death> death_;
};

/// A sync that ends when a few other operations have, or when nobody does any.
class Disk::SlowSync final : public ForwardingStorage {
 public:
  SlowSync(std::unique_ptr<core::Storage> inner, std::shared_ptr<Shared> shared)
      : ForwardingStorage(std::move(inner)), shared_(std::move(shared)) {}

  void sync() override {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::microseconds(300);
    const auto wanted = shared_->operations + 3;
    while (shared_->operations < wanted && Clock::now() < end) std::this_thread::yield();
    ForwardingStorage::sync();
  }

 private:
  std::shared_ptr<Shared> shared_;
};

Disk::Disk() = default;

std::unique_ptr<core::Storage> Disk::open(std::shared_ptr<Death> death) {
  auto slow = std::make_unique<SlowSync>(file_->open(), shared_);
  auto recording = std::make_unique<RecordingStorage>(std::move(slow), log_);
  return std::make_unique<Ordered>(std::move(recording), shared_, std::move(death));
}

namespace {

class DroppingStorage final : public ForwardingStorage {
 public:
  DroppingStorage(std::unique_ptr<core::Storage> inner, Dropped dropped, std::uint64_t data_offset)
      : ForwardingStorage(std::move(inner)), dropped_(dropped), data_offset_(data_offset) {}

  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    ForwardingStorage::write(offset, from);
    if (offset < data_offset_) bitmap_written_ = true;
  }
  void sync() override {
    const auto kind =
        bitmap_written_.exchange(false) ? Dropped::after_bitmap : Dropped::before_bitmap;
    if (kind != dropped_) ForwardingStorage::sync();
  }

 private:
  Dropped dropped_;
  std::uint64_t data_offset_;
  std::atomic<bool> bitmap_written_ = false;
};

}  // namespace

std::unique_ptr<core::Storage> drop_syncs(std::unique_ptr<core::Storage> storage, Dropped dropped,
                                          std::uint64_t data_offset) {
  return std::make_unique<DroppingStorage>(std::move(storage), dropped, data_offset);
}

}  // namespace cowfs::tests
