// The COW file that a power-cut test watches.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "cowcore/storage.hpp"
#include "tests/support/forwarding_storage.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/operation_log.hpp"

namespace cowfs::tests {

/// Takes the life of whoever uses a storage: after so many operations, every one of them fails.
/// Thread safety: all functions may be called at once.
class Death {
 public:
  void comes_after(std::int64_t operations) { left_ = operations; }
  /// Throws when the time has come.
  void strike();

 private:
  std::atomic<std::int64_t> left_ = INT64_MAX;
};

/// A file in memory with a log of what is done to it. Changes come one after the other, so that the
/// log is the order in which they took effect; a sync takes a while, and other things go on
/// meanwhile.
class Disk {
 public:
  Disk();

  /// Opens the file; what is done through it is logged until `death` comes.
  [[nodiscard]] std::unique_ptr<core::Storage> open(std::shared_ptr<Death> death);
  /// Opens the file without a log.
  [[nodiscard]] std::unique_ptr<core::Storage> open_unlogged() { return file_->open(); }

  [[nodiscard]] OperationLog& log() { return *log_; }

 private:
  struct Shared {
    std::mutex changes;
    std::atomic<std::uint64_t> operations = 0;
  };
  class Ordered;
  class SlowSync;

  std::shared_ptr<MemoryFile> file_ = MemoryFile::make("cow", 512);
  std::shared_ptr<OperationLog> log_ = std::make_shared<OperationLog>();
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

/// Leaves out syncs that another storage was asked for.
enum class Dropped {
  before_bitmap,  ///< those that no write of the bitmap came before
  after_bitmap,
};

/// Drops some syncs of whoever uses it. `data_offset` is where the bitmap ends.
[[nodiscard]] std::unique_ptr<core::Storage> drop_syncs(std::unique_ptr<core::Storage> storage,
                                                        Dropped dropped, std::uint64_t data_offset);

}  // namespace cowfs::tests
