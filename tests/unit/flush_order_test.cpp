// The order of a flush: data, sync, exactly the bits whose data that sync covered, sync.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/interrupted_storage.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::error_of;
using tests::LoggedOperation;
using tests::Operation;
using Bytes = std::vector<std::byte>;

constexpr SectorCount sectors = 3 * 32768;  // three chunks of the bitmap

class FlushOrder : public testing::Test {
 protected:
  FlushOrder() {
    tests::make_empty_cow(*cow_->open(), header_);
    backing_->open()->write(0, Bytes(1 << 20, std::byte{1}));
    backing_->open()->resize(sectors * sector_bytes);
    open();
    image_->flush();  // of what a process before this one may have written
    log_->clear();
  }

  void open() {
    auto storage = std::make_unique<tests::InterruptedStorage>(cow_->open(), interruption_);
    auto faulty = std::make_unique<tests::FaultyStorage>(std::move(storage), plan_);
    auto recording = std::make_unique<tests::RecordingStorage>(std::move(faulty), log_);
    image_ = std::make_unique<CowImage>(std::move(recording), backing_->open(), layout_, false);
  }

  void write(SectorNumber sector, SectorCount count = 1) {
    image_->write(sector * sector_bytes, Bytes(count * sector_bytes, std::byte{7}));
  }

  [[nodiscard]] bool is_bitmap(const LoggedOperation& operation) const {
    return operation.operation == Operation::write && operation.offset < layout_.data_offset;
  }

  /// What was done since the log was cleared: D data, P punch, B bitmap, S sync. Making room for
  /// the bitmap is left out.
  [[nodiscard]] std::string order() const {
    std::string text;
    for (const auto& operation : log_->operations()) {
      if (operation.operation == Operation::sync) text += 'S';
      if (operation.operation == Operation::punch) text += 'P';
      if (operation.operation == Operation::write) text += is_bitmap(operation) ? 'B' : 'D';
    }
    return text;
  }

  [[nodiscard]] bool on_disk(SectorNumber sector) const {
    return tests::bit_on_disk(*cow_->open(), layout_, sector);
  }

  std::shared_ptr<tests::MemoryFile> cow_ = tests::MemoryFile::make("cow");
  std::shared_ptr<tests::MemoryFile> backing_ = tests::MemoryFile::make("backing");
  CowHeader header_ = tests::make_header({.backing_size = sectors * sector_bytes});
  CowLayout layout_ = compute_layout(header_, "cow");
  std::shared_ptr<tests::OperationLog> log_ = std::make_shared<tests::OperationLog>();
  std::shared_ptr<tests::FaultPlan> plan_ = std::make_shared<tests::FaultPlan>();
  std::shared_ptr<tests::Interruption> interruption_ = std::make_shared<tests::Interruption>();
  std::unique_ptr<CowImage> image_;
};

TEST_F(FlushOrder, NewDataIsSyncedBeforeItsBitsAreWrittenAndThoseAreSynced) {
  write(5);
  EXPECT_EQ(order(), "D");
  EXPECT_FALSE(on_disk(5));
  EXPECT_TRUE(image_->has_unflushed());
  image_->flush();
  EXPECT_EQ(order(), "DSBS");
  EXPECT_TRUE(on_disk(5));
  EXPECT_FALSE(image_->has_unflushed());
}

// A process before this one may have written and been killed before it came to a sync.
TEST_F(FlushOrder, TheFirstAfterOpeningSyncsOnceForWhoeverCameBefore) {
  open();
  EXPECT_TRUE(image_->has_unflushed());
  image_->flush();
  EXPECT_EQ(order(), "S");
  EXPECT_FALSE(image_->has_unflushed());
}

TEST_F(FlushOrder, NothingWrittenIsNoWork) {
  image_->flush();
  EXPECT_EQ(order(), "");
  write(5);
  image_->flush();
  log_->clear();
  image_->flush();
  EXPECT_EQ(order(), "");
}

TEST_F(FlushOrder, TheFirstSyncsWhatAProcessBeforeMayHaveWritten) {
  // A daemon that was killed has acknowledged writes into sectors that were in the COW before: they
  // left no mark anywhere, and an fsync that comes after it covers them.
  CowImage image(std::make_unique<tests::RecordingStorage>(cow_->open(), log_), backing_->open(),
                 layout_, false);
  image.flush();
  EXPECT_EQ(order(), "S");
  image.flush();
  EXPECT_EQ(order(), "S");
}

TEST_F(FlushOrder, ReadingIsNoWork) {
  (void)tests::read_image(*image_, 0, 100000);
  image_->flush();
  EXPECT_EQ(order(), "");
}

TEST_F(FlushOrder, OverwritingWhatIsInTheCowTakesOneSync) {
  write(5);
  image_->flush();
  log_->clear();
  write(5);
  image_->flush();
  EXPECT_EQ(order(), "DS");
}

TEST_F(FlushOrder, APartOfASectorIsNewDataToo) {
  image_->write(700, Bytes(3));
  image_->flush();
  EXPECT_EQ(order(), "DSBS");
  log_->clear();
  image_->write(900, Bytes(3));
  image_->flush();
  EXPECT_EQ(order(), "DS");
}

TEST_F(FlushOrder, APunchedHoleIsSyncedBeforeItsBits) {
  image_->zero(4096, 4096);
  image_->flush();
  EXPECT_EQ(order(), "PSBS");
  log_->clear();
  image_->zero(4096, 512);
  image_->flush();
  EXPECT_EQ(order(), "PS");
}

/// A COW as UML makes it: it ends inside of the last sector.
class FlushOrderOfOddSize : public testing::Test {
 protected:
  FlushOrderOfOddSize() {
    tests::make_empty_cow(*cow_->open(), header_);
    backing_->open()->write(0, Bytes(size, std::byte{1}));
  }

  [[nodiscard]] std::unique_ptr<CowImage> open() const {
    return std::make_unique<CowImage>(std::make_unique<tests::RecordingStorage>(cow_->open(), log_),
                                      backing_->open(), layout_, false);
  }

  [[nodiscard]] std::vector<Operation> order() const {
    std::vector<Operation> order;
    for (const auto& operation : log_->operations()) {
      if (operation.operation != Operation::reserve) order.push_back(operation.operation);
    }
    return order;
  }

  static constexpr std::uint64_t size = 8 * sector_bytes - 100;
  std::shared_ptr<tests::MemoryFile> cow_ = tests::MemoryFile::make("cow");
  std::shared_ptr<tests::MemoryFile> backing_ = tests::MemoryFile::make("backing");
  CowHeader header_ = tests::make_header({.backing_size = size});
  CowLayout layout_ = compute_layout(header_, "cow");
  std::shared_ptr<tests::OperationLog> log_ = std::make_shared<tests::OperationLog>();
};

TEST_F(FlushOrderOfOddSize, TheLastSectorIsWholeOnDiskBeforeItIsOverwritten) {
  tests::set_bit_on_disk(*cow_->open(), layout_, 7);
  const auto image = open();
  image->write(7 * sector_bytes, Bytes(sector_bytes, std::byte{7}));
  image->write(7 * sector_bytes, Bytes(sector_bytes, std::byte{8}));
  EXPECT_EQ(order(),
            (std::vector{Operation::resize, Operation::sync, Operation::write, Operation::write}));
  EXPECT_EQ(cow_->size(), layout_.data_offset + layout_.merged_size);
}

TEST_F(FlushOrderOfOddSize, ZeroingTheLastSectorMakesItWhole) {
  const auto image = open();
  image->zero(7 * sector_bytes, sector_bytes);
  EXPECT_EQ(order(), (std::vector{Operation::resize, Operation::punch}));
  EXPECT_EQ(cow_->size(), layout_.data_offset + layout_.merged_size);
}

TEST_F(FlushOrder, BitsOfManyWritesGoTogether) {
  for (const SectorNumber sector : {1U, 100U, 40000U, 70000U}) write(sector);
  image_->flush();
  EXPECT_EQ(order(), "DDDDSBBBS") << "one write for each chunk of the bitmap";
  for (const SectorNumber sector : {1U, 100U, 40000U, 70000U}) EXPECT_TRUE(on_disk(sector));
}

TEST_F(FlushOrder, AWriteDuringTheFirstSyncIsNotInThisFlush) {
  write(5);
  bool done = false;
  *interruption_ = [&](Operation operation, tests::Moment) {
    if (operation != Operation::sync || done) return;
    done = true;
    write(6);      // the same word of the bitmap
    write(40000);  // another chunk
  };
  image_->flush();
  EXPECT_TRUE(on_disk(5));
  EXPECT_FALSE(on_disk(6)) << "no sync has covered its data for sure";
  EXPECT_FALSE(on_disk(40000));
  EXPECT_TRUE(image_->has_unflushed());
  image_->flush();
  EXPECT_TRUE(on_disk(6));
  EXPECT_TRUE(on_disk(40000));
}

TEST_F(FlushOrder, AWriteDuringTheSecondSyncNeedsItsOwn) {
  write(5);
  int syncs = 0;
  *interruption_ = [&](Operation operation, tests::Moment moment) {
    if (operation != Operation::sync || moment != tests::Moment::before || ++syncs != 2) return;
    write(5);
  };
  image_->flush();
  *interruption_ = {};
  log_->clear();
  image_->flush();
  EXPECT_EQ(order(), "S");
}

TEST_F(FlushOrder, FlushesThatArriveTogetherShareTheWork) {
  static constexpr unsigned callers = 8;
  write(0);
  std::atomic<unsigned> written = 0;
  std::vector<std::jthread> threads;
  bool first = true;
  *interruption_ = [&](Operation operation, tests::Moment moment) {
    if (operation != Operation::sync || moment != tests::Moment::before || !first) return;
    first = false;
    // The flush that runs began before these writes: it must not serve their callers.
    for (unsigned id = 0; id < callers; ++id) {
      threads.emplace_back([&, id] {
        write(1000 + id);
        ++written;
        image_->flush();
      });
    }
    while (written < callers) std::this_thread::yield();
  };
  image_->flush();
  threads.clear();
  std::string syncs = order();
  std::erase_if(syncs, [](char c) { return c != 'S'; });
  EXPECT_EQ(syncs, "SSSS") << "two flushes, one for all that came meanwhile";
  for (unsigned id = 0; id < callers; ++id) EXPECT_TRUE(on_disk(1000 + id));
}

TEST_F(FlushOrder, AFailedFirstSyncLeavesTheBitmapAndSticks) {
  write(5);
  plan_->add({.operation = Operation::sync, .error = ENOSPC});
  EXPECT_EQ(error_of([&] { image_->flush(); }), ENOSPC);
  EXPECT_FALSE(on_disk(5));
  log_->clear();
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO) << "a later sync claimed success";
  EXPECT_EQ(error_of([&] { write(6); }), EROFS);
  EXPECT_EQ(error_of([&] { image_->zero(0, 512); }), EROFS);
  EXPECT_EQ(error_of([&] { image_->reserve(0, 512); }), EROFS);
  EXPECT_EQ(log_->operations().size(), 0U);
  EXPECT_EQ(tests::read_image(*image_, 5 * sector_bytes, 512), Bytes(512, std::byte{7}))
      << "what was written can still be read";
}

TEST_F(FlushOrder, AFailedWriteOfTheBitmapSticks) {
  write(5);
  plan_->add({.operation = Operation::write, .error = EIO});
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
  EXPECT_EQ(error_of([&] { write(6); }), EROFS);
}

TEST_F(FlushOrder, AFailedSecondSyncSticks) {
  write(5);
  plan_->add({.operation = Operation::sync, .nth = 2, .error = EIO});
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
  EXPECT_EQ(error_of([&] { write(6); }), EROFS);
}

TEST_F(FlushOrder, AFailedSyncOfOverwrittenDataSticks) {
  write(5);
  image_->flush();
  write(5);
  plan_->add({.operation = Operation::sync, .error = EIO});
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
  EXPECT_EQ(error_of([&] { image_->flush(); }), EIO);
}

TEST_F(FlushOrder, AllWhoWaitForAFailedFlushAreTold) {
  static constexpr unsigned callers = 6;
  write(0);
  plan_->add({.operation = Operation::sync, .error = EIO, .lasting = true});
  std::atomic<unsigned> failed = 0;
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < callers; ++id) {
    threads.emplace_back([&] {
      try {
        image_->flush();
      } catch (const std::system_error&) {
        // Not looked at: it is one object for all of them, and ThreadSanitizer does not see how
        // libstdc++ counts who still has it.
        ++failed;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(failed, callers);
}

/// Which sectors a logged change gives new data, whole ones only.
std::pair<SectorNumber, SectorNumber> covered(const LoggedOperation& operation,
                                              const CowLayout& layout) {
  const auto begin = operation.offset - layout.data_offset;
  return {(begin + sector_bytes - 1) / sector_bytes, (begin + operation.length) / sector_bytes};
}

constexpr auto never = std::numeric_limits<std::uint64_t>::max();

/// Reads a log as a disk would: what was durable when.
class DurableHistory {
 public:
  DurableHistory(const std::vector<LoggedOperation>& operations, const CowLayout& layout)
      : operations_(operations), layout_(layout) {
    for (const auto& operation : operations) {
      if (operation.ended == 0) continue;
      if (operation.operation == Operation::sync) {
        syncs_.push_back({operation.began, operation.ended});
      } else if (is_data(operation)) {
        const auto [first, end] = covered(operation, layout);
        for (auto sector = first; sector < end; ++sector) {
          auto& written = data_written_.try_emplace(sector, never).first->second;
          written = std::min(written, operation.ended);
        }
      }
    }
  }

  /// Every bit that was written stands for data that a sync had covered before.
  void check_bits_follow_data() const {
    std::map<std::uint64_t, std::byte> bitmap;  // by offset
    for (const auto& operation : operations_) {
      if (operation.operation != Operation::write || is_data(operation)) continue;
      const auto covered_until = last_sync_before(operation.began);
      for (std::size_t i = 0; i < operation.bytes.size(); ++i) {
        auto& before = bitmap[operation.offset + i];
        const auto added = operation.bytes[i] & ~before;
        ASSERT_EQ(before & ~operation.bytes[i], std::byte{}) << "a bit was taken back";
        before = operation.bytes[i];
        for (unsigned bit = 0; bit < 8; ++bit) {
          if ((added >> bit & std::byte{1}) == std::byte{}) continue;
          const auto sector = (operation.offset + i - layout_.bitmap_offset) * 8 + bit;
          const auto written = data_written_.find(sector);
          ASSERT_NE(written, data_written_.end()) << "sector " << sector << " has no data";
          ASSERT_LT(written->second, covered_until)
              << "the bit of sector " << sector << " came before a sync of its data";
        }
      }
    }
  }

  /// Whether the bit of a sector was durable at a moment.
  [[nodiscard]] bool bit_durable_at(SectorNumber sector, std::uint64_t moment) const {
    const auto offset = layout_.bitmap_offset + sector / 8;
    const auto covered_until = last_sync_before(moment);
    return std::ranges::any_of(operations_, [&](const LoggedOperation& operation) {
      if (operation.operation != Operation::write || operation.ended == 0 ||
          operation.ended >= covered_until || offset < operation.offset ||
          offset >= operation.offset + operation.length) {
        return false;
      }
      const auto byte = operation.bytes[offset - operation.offset];
      return (byte >> (sector % 8) & std::byte{1}) != std::byte{};
    });
  }

 private:
  struct Sync {
    std::uint64_t began;
    std::uint64_t ended;
  };

  [[nodiscard]] bool is_data(const LoggedOperation& operation) const {
    return (operation.operation == Operation::write || operation.operation == Operation::punch) &&
           operation.offset >= layout_.data_offset;
  }

  /// When the last sync that had ended by then began: it covers all that had ended before that.
  [[nodiscard]] std::uint64_t last_sync_before(std::uint64_t moment) const {
    std::uint64_t began = 0;
    for (const auto& sync : syncs_) {
      if (sync.ended < moment) began = std::max(began, sync.began);
    }
    return began;
  }

  const std::vector<LoggedOperation>& operations_;
  CowLayout layout_;
  std::vector<Sync> syncs_;
  std::map<SectorNumber, std::uint64_t> data_written_;  // when its first whole data was
};

TEST_F(FlushOrder, HoldsUnderConcurrentWritersAndFlushers) {
  SCOPED_TRACE(tests::seed_hint());
  static constexpr unsigned writers = 4;
  struct Promise {
    SectorNumber sector;
    std::uint64_t at;  // on the log's clock, after the flush has returned
  };
  std::mutex mutex;
  std::vector<Promise> promises;
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < writers; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(id + 1);
      std::vector<SectorNumber> mine;
      for (SectorNumber i = 0; i < 400; ++i) {
        // Often sectors that others write as well, so that many are set by somebody else meanwhile.
        const auto sector = random.one_in(3) ? random.between(0, sectors - 1)
                                             : random.between(0, 200) + i % 3 * 32768;
        if (sector >= 1 << 11 || !random.one_in(5)) {
          write(sector);
        } else if (random.one_in(2)) {
          image_->zero(sector * sector_bytes, 512);
        } else {
          image_->write(sector * sector_bytes + 5, Bytes(100, std::byte{9}));
        }
        if (image_->sectors().in_cow(sector)) mine.push_back(sector);
        if (!random.one_in(10)) continue;
        image_->flush();
        const auto now = log_->tick();
        const std::lock_guard guard(mutex);
        for (const auto written : mine) promises.push_back({written, now});
        mine.clear();
      }
    });
  }
  threads.clear();
  const auto operations = log_->operations();
  const DurableHistory history(operations, layout_);
  ASSERT_NO_FATAL_FAILURE(history.check_bits_follow_data());
  ASSERT_FALSE(promises.empty());
  for (const auto& promise : promises) {
    ASSERT_TRUE(history.bit_durable_at(promise.sector, promise.at))
        << "the flush returned before the bit of sector " << promise.sector << " was durable";
  }
}

}  // namespace
}  // namespace cowfs::core
