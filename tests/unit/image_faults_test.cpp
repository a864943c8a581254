// Disks that are full or broken: an error to the caller, and never a changed sector.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::error_of;
using tests::Operation;
using Bytes = std::vector<std::byte>;

class ImageFaults : public testing::Test {
 protected:
  ImageFaults() { open(); }

  void open() {
    image_ = std::make_unique<CowImage>(
        std::make_unique<tests::FaultyStorage>(pair_.cow->open(), cow_plan_),
        std::make_unique<tests::FaultyStorage>(pair_.backing->open(), backing_plan_), pair_.layout,
        false);
  }

  [[nodiscard]] Bytes original(std::uint64_t offset, std::size_t length) const {
    const auto begin = pair_.content.begin() + static_cast<std::ptrdiff_t>(offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(length)};
  }

  tests::TestRandom random_;
  tests::PairInMemory pair_ = tests::make_pair_in_memory({.backing_size = 1 << 20}, random_);
  std::shared_ptr<tests::FaultPlan> cow_plan_ = std::make_shared<tests::FaultPlan>();
  std::shared_ptr<tests::FaultPlan> backing_plan_ = std::make_shared<tests::FaultPlan>();
  std::unique_ptr<CowImage> image_;
};

TEST_F(ImageFaults, AFullDiskLeavesTheSectorsAsTheyWere) {
  // Three sectors and a half reach the file before there is no more room.
  cow_plan_->add({.operation = Operation::write, .error = ENOSPC, .bytes_before = 1800});
  EXPECT_EQ(error_of([&] { image_->write(4096, Bytes(4096, std::byte{7})); }), ENOSPC);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_EQ(tests::read_image(*image_, 0, 16384), original(0, 16384));
  image_->flush();
  open();
  EXPECT_EQ(tests::read_image(*image_, 0, 16384), original(0, 16384)) << "after reopening";
}

TEST_F(ImageFaults, AfterAFullDiskTheNextWriteWorks) {
  cow_plan_->add({.operation = Operation::write, .error = ENOSPC, .bytes_before = 1000});
  EXPECT_EQ(error_of([&] { image_->write(4096, Bytes(4096, std::byte{7})); }), ENOSPC);
  image_->write(4096, Bytes(4096, std::byte{8}));
  image_->flush();
  open();
  EXPECT_EQ(tests::read_image(*image_, 4096, 4096), Bytes(4096, std::byte{8}));
}

TEST_F(ImageFaults, AWriteOfManyPiecesThatFailsInTheLastSetsNoBit) {
  // Unaligned at both ends: first sector, middle, last sector.
  cow_plan_->add({.operation = Operation::write, .nth = 3, .error = EIO});
  EXPECT_EQ(error_of([&] { image_->write(700, Bytes(5000, std::byte{7})); }), EIO);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_EQ(tests::read_image(*image_, 0, 16384), original(0, 16384));
}

TEST_F(ImageFaults, NoRoomForTheBitmapIsAnErrorOfTheWriteAndNotOfTheFlush) {
  cow_plan_->add({.operation = Operation::reserve, .error = ENOSPC});
  EXPECT_EQ(error_of([&] { image_->write(4096, Bytes(512)); }), ENOSPC);
  EXPECT_EQ(tests::read_image(*image_, 4096, 512), original(4096, 512));
  image_->flush();
  EXPECT_EQ(error_of([&] { image_->write(4096, Bytes(512)); }), 0);
}

TEST_F(ImageFaults, NoRoomForTheBitmapIsAnErrorOfADiscard) {
  pair_.backing->open()->write(0, Bytes(4096, std::byte{1}));
  cow_plan_->add({.operation = Operation::reserve, .error = ENOSPC});
  EXPECT_EQ(error_of([&] { image_->zero(0, 4096); }), ENOSPC);
  EXPECT_EQ(tests::read_image(*image_, 0, 4096), Bytes(4096, std::byte{1}));
}

TEST_F(ImageFaults, AFailedPunchSetsNoBit) {
  pair_.backing->open()->write(0, Bytes(4096, std::byte{1}));
  cow_plan_->add({.operation = Operation::punch, .error = EIO});
  EXPECT_EQ(error_of([&] { image_->zero(0, 4096); }), EIO);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_EQ(tests::read_image(*image_, 0, 4096), Bytes(4096, std::byte{1}));
}

TEST_F(ImageFaults, ABrokenBackingFailsThePartialWriteThatNeedsIt) {
  backing_plan_->add({.operation = Operation::read, .error = EIO, .lasting = true});
  EXPECT_EQ(error_of([&] { image_->write(100, Bytes(10)); }), EIO);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_EQ(error_of([&] { image_->write(512, Bytes(512)); }), 0) << "needs nothing of it";
  EXPECT_EQ(error_of([&] { (void)tests::read_image(*image_, 0, 512); }), EIO);
  EXPECT_EQ(error_of([&] { (void)tests::read_image(*image_, 512, 512); }), 0);
  EXPECT_EQ(error_of([&] { (void)tests::read_image(*image_, 0, 4096); }), EIO) << "mixed";
}

TEST_F(ImageFaults, ABitmapThatCannotBeReadIsAnErrorAndNoGuess) {
  tests::set_bit_on_disk(*pair_.cow->open(), pair_.layout, 3);
  open();
  cow_plan_->add({.operation = Operation::read, .error = EIO, .lasting = true});
  EXPECT_EQ(error_of([&] { (void)tests::read_image(*image_, 0, 512); }), EIO);
  EXPECT_EQ(error_of([&] { image_->write(0, Bytes(512)); }), EIO);
  cow_plan_->heal();
  EXPECT_EQ(tests::read_image(*image_, 3 * 512, 512), Bytes(512));
}

TEST_F(ImageFaults, AReadOnlyImageWritesNothing) {
  const auto log = std::make_shared<tests::OperationLog>();
  CowImage image(std::make_unique<tests::RecordingStorage>(pair_.cow->open(), log),
                 pair_.backing->open(), pair_.layout, true);
  EXPECT_TRUE(image.read_only());
  EXPECT_EQ(error_of([&] { image.write(0, Bytes(1)); }), EROFS);
  EXPECT_EQ(error_of([&] { image.zero(0, 1); }), EROFS);
  EXPECT_EQ(error_of([&] { image.reserve(0, 1); }), EROFS);
  EXPECT_EQ(tests::difference(tests::read_all(image), pair_.content), "the same");
  image.flush();
  EXPECT_TRUE(log->operations().empty());
}

/// Long random sequences in which any operation on either file may fail. For each byte the model
/// knows all values that are right: more than one after a failed write over it.
class FaultRun {
 public:
  explicit FaultRun(tests::TestRandom& random) : random_(random) {}

  void run() {
    open();
    for (int step = 0; step < 400; ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      if (random_.one_in(6)) {
        plan_->add({.nth = random_.between(1, 6),
                    .error = random_.one_in(2) ? ENOSPC : EIO,
                    .bytes_before = random_.between(0, 3000)});
      }
      ASSERT_NO_FATAL_FAILURE(do_one());
    }
    plan_->heal();
    ASSERT_NO_FATAL_FAILURE(reopen());
  }

 private:
  void open() {
    image_ = std::make_unique<CowImage>(
        std::make_unique<tests::FaultyStorage>(pair_.cow->open(), plan_),
        std::make_unique<tests::FaultyStorage>(pair_.backing->open(), plan_), pair_.layout, false);
  }

  void do_one() {
    const auto offset = random_.between(0, image_->size() - 1);
    const auto length = random_.between(1, std::min<std::uint64_t>(image_->size() - offset, 9000));
    switch (random_.between(0, 9)) {
      case 0:
        flush();
        break;
      case 1:
      case 2:
        change(offset, Bytes(length), [&](const Bytes&) { image_->zero(offset, length); });
        break;
      case 3:
      case 4:
        check(offset, length);
        break;
      default:
        change(offset, random_.bytes(length),
               [&](const Bytes& bytes) { image_->write(offset, bytes); });
        break;
    }
  }

  template <typename Call>
  void change(std::uint64_t offset, const Bytes& bytes, Call&& call) {
    const auto error = error_of([&] { call(bytes); });
    if (error == EROFS) {
      ASSERT_TRUE(failed_);
      return;
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      auto& right = model_[offset + i];
      if (error == 0) right.clear();
      right.push_back(bytes[i]);
    }
    plan_->heal();
    // Others must not have changed, and the failed one's must be old or new. Adopts what it finds.
    ASSERT_NO_FATAL_FAILURE(check(
        offset / 512 * 512, std::min(image_->size() - offset / 512 * 512, bytes.size() + 1024)));
  }

  void flush() {
    const auto error = error_of([&] { image_->flush(); });
    if (failed_) {
      ASSERT_EQ(error, EIO) << "a flush claimed success after one had failed";
    }
    plan_->heal();
    if (error == 0) {
      flushed_ = model_;
      return;
    }
    failed_ = true;
    ASSERT_NO_FATAL_FAILURE(check(0, image_->size()));
    if (random_.one_in(3)) reopen();
  }

  void check(std::uint64_t offset, std::size_t length) {
    plan_->heal();
    const auto found = tests::read_image(*image_, offset, length);
    for (std::size_t i = 0; i < length; ++i) {
      auto& right = model_[offset + i];
      ASSERT_TRUE(std::ranges::find(right, found[i]) != right.end()) << "byte " << offset + i;
      right = {found[i]};
    }
  }

  /// As after a crash of the process: each sector is as it was last, or as last flushed.
  void reopen() {
    image_.reset();
    failed_ = false;
    open();
    const auto found = tests::read_all(*image_);
    for (std::size_t at = 0; at < found.size(); at += 512) {
      bool as_last = true;
      bool as_flushed = true;
      for (std::size_t i = at; i < at + 512; ++i) {
        as_last = as_last && std::ranges::find(model_[i], found[i]) != model_[i].end();
        as_flushed = as_flushed && std::ranges::find(flushed_[i], found[i]) != flushed_[i].end();
      }
      ASSERT_TRUE(as_last || as_flushed) << "sector " << at / 512;
    }
    for (std::size_t i = 0; i < found.size(); ++i) model_[i] = {found[i]};
    flushed_ = model_;
  }

  [[nodiscard]] static std::vector<Bytes> one_value_each(const Bytes& content) {
    std::vector<Bytes> values(content.size());
    for (std::size_t i = 0; i < content.size(); ++i) values[i] = {content[i]};
    return values;
  }

  tests::TestRandom& random_;
  tests::PairInMemory pair_ = tests::make_pair_in_memory({.backing_size = 40000}, random_);
  std::shared_ptr<tests::FaultPlan> plan_ = std::make_shared<tests::FaultPlan>();
  std::unique_ptr<CowImage> image_;
  std::vector<Bytes> model_ = one_value_each(pair_.content);
  std::vector<Bytes> flushed_ = model_;
  bool failed_ = false;
};

TEST(ImageFaultModel, NoFaultChangesASectorThatItDoesNotConcern) {
  SCOPED_TRACE(tests::seed_hint());
  tests::TestRandom random;
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    ASSERT_NO_FATAL_FAILURE(FaultRun(random).run());
  }
}

}  // namespace
}  // namespace cowfs::core
