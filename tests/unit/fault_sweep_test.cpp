// Each operation of cowcore with its first storage operation failing, then its second, and so on:
// nothing lies, and the file opens clean afterwards.

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/create_cow.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/read_view.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using Bytes = std::vector<std::byte>;
using tests::FaultPlan;

struct Step {
  const char* name;
  std::function<void(CowImage&, Bytes&)> run;  ///< changes the model as it will change the image
  bool flushes = false;
};

void put(CowImage& image, Bytes& model, std::uint64_t offset, std::size_t length) {
  const Bytes bytes(length, std::byte{0x77});
  std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
  image.write(offset, bytes);
}

void wipe(CowImage& image, Bytes& model, std::uint64_t offset, std::size_t length) {
  std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{});
  image.zero(offset, length);
}

std::vector<Step> steps() {
  return {
      {"read", [](CowImage& image, Bytes&) { (void)tests::read_image(image, 300, 40000); }},
      {"view",
       [](CowImage& image, Bytes&) {
         ReadView view(65536);
         image.view(300, 40000, view);
       }},
      {"write_sectors", [](CowImage& image, Bytes& model) { put(image, model, 4096, 16384); }},
      {"write_parts", [](CowImage& image, Bytes& model) { put(image, model, 4000, 9001); }},
      {"write_end", [](CowImage& image, Bytes& model) { put(image, model, 39936, 512); }},
      {"zero", [](CowImage& image, Bytes& model) { wipe(image, model, 700, 30000); }},
      {"reserve", [](CowImage& image, Bytes&) { image.reserve(0, 30000); }},
      {"seek",
       [](CowImage& image, Bytes&) {
         (void)image.next_data(0);
         (void)image.next_hole(0);
         (void)image.sectors().count();
       }},
      {"write_and_flush",
       [](CowImage& image, Bytes& model) {
         put(image, model, 4000, 9001);
         image.flush();
       },
       true},
  };
}

/// How an operation fails.
struct Failure {
  int error;
  std::size_t bytes_before;  ///< of a write
};

class FaultSweep : public testing::TestWithParam<std::size_t> {
 protected:
  void make_pair() {
    tests::TestRandom random;
    pair_ = tests::make_pair_in_memory({.backing_size = 40000}, random);
    model_ = pair_.content;
    const auto image = open();
    for (const std::uint64_t offset : {2048U, 8192U, 20480U}) put(*image, model_, offset, 1536);
    image->zero(30720, 1024);
    std::fill_n(model_.begin() + 30720, 1024, std::byte{});
    image->flush();
  }

  [[nodiscard]] std::unique_ptr<CowImage> open() const {
    return std::make_unique<CowImage>(
        std::make_unique<tests::FaultyStorage>(pair_.cow->open(), plan_),
        std::make_unique<tests::FaultyStorage>(pair_.backing->open(), plan_), pair_.layout, false);
  }

  /// Each sector of the image is as in one of the two.
  static void expect_old_or_new(const Bytes& found, const Bytes& before, const Bytes& after) {
    for (std::size_t at = 0; at < found.size(); at += 512) {
      const auto same = [&](const Bytes& other) {
        return std::equal(&found[at], &found[at] + 512, &other[at]);
      };
      ASSERT_TRUE(same(before) || same(after)) << "sector " << at / 512;
    }
  }

  std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
  tests::PairInMemory pair_;
  Bytes model_;
};

TEST_P(FaultSweep, LeavesEachSectorOldOrNewAndTheFileClean) {
  SCOPED_TRACE(tests::seed_hint());
  const auto step = steps().at(GetParam());
  for (const auto& failure : {Failure{EIO, 0}, Failure{ENOSPC, 0}, Failure{ENOSPC, 700}}) {
    bool failed = true;
    for (std::uint64_t nth = 1; failed; ++nth) {
      SCOPED_TRACE("operation " + std::to_string(nth) + ", errno " + std::to_string(failure.error));
      make_pair();
      const auto before = model_;
      const auto image = open();
      plan_->add({.nth = nth, .error = failure.error, .bytes_before = failure.bytes_before});
      const auto failures_before = plan_->failures();
      bool threw = false;
      try {
        step.run(*image, model_);
      } catch (const std::system_error& error) {
        threw = true;
        EXPECT_EQ(error.code().value(), failure.error);
      }
      failed = plan_->failures() > failures_before;
      plan_->heal();
      ASSERT_LT(nth, 200U);
      if (!threw) {  // acknowledged, so readable (a view reads what it can't map)
        EXPECT_EQ(tests::difference(tests::read_all(*image), model_), "the same");
      }
      const auto found = tests::read_all(*image);
      ASSERT_NO_FATAL_FAILURE(expect_old_or_new(found, before, model_));
      // A full disk or a bad sector is no reason to stop; a flush that failed is.
      const auto flush = [&] { image->flush(); };
      if (threw && step.flushes && image->sectors().in_cow(10)) {
        EXPECT_THROW(flush(), std::system_error);
        EXPECT_THROW(flush(), std::system_error);
        EXPECT_THROW(image->write(0, Bytes(512)), std::system_error);
        ASSERT_NO_FATAL_FAILURE(expect_old_or_new(tests::read_all(*open()), before, model_));
      } else {
        EXPECT_NO_THROW(flush());
        EXPECT_EQ(tests::difference(tests::read_all(*open()), found), "the same") << "reopened";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, FaultSweep, testing::Range<std::size_t>(0, 9),
                         [](const auto& tested) {
                           return std::string(steps().at(tested.param).name);
                         });

/// Runs `call` with its n-th storage operation failing, for every n; returns how many there were.
std::uint64_t sweep(FaultPlan& plan, const std::function<void()>& call,
                    const std::function<void()>& after_failure) {
  for (std::uint64_t nth = 1;; ++nth) {
    const auto failures = plan.failures();
    plan.add({.nth = nth, .error = nth % 2 == 0 ? ENOSPC : EIO, .bytes_before = 100});
    bool threw = false;
    try {
      call();
    } catch (const std::system_error&) {
      threw = true;
    }
    plan.heal();
    if (plan.failures() == failures) return nth - 1;
    EXPECT_TRUE(threw) << "operation " << nth << " failed, and nobody was told";
    after_failure();
  }
}

TEST(FaultSweepOfFile, CreatingSaysThatItFailed) {
  const auto plan = std::make_shared<FaultPlan>();
  const auto header = tests::make_header({.backing_size = 40000});
  const auto operations = sweep(
      *plan,
      [&] {
        tests::FaultyStorage file(tests::MemoryFile::make("cow")->open(), plan);
        write_empty_cow(file, header);
      },
      [] {});
  EXPECT_EQ(operations, 3U) << "write, resize, sync";
}

TEST(FaultSweepOfFile, RelocatingLeavesTheOldPathOrTheNew) {
  const auto plan = std::make_shared<FaultPlan>();
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 40000}, random);
  auto header = pair.header;
  int round = 0;
  std::string old_path = header.backing_path;
  const auto path_on_disk = [&] { return describe_cow(*pair.cow->open()).header.backing_path; };
  sweep(
      *plan,
      [&] {
        old_path = path_on_disk();
        header.backing_path = "/moved/" + std::to_string(++round);
        tests::FaultyStorage file(pair.cow->open(), plan);
        rewrite_header(file, header);
      },
      [&] {
        // A write of some bytes more or fewer than a sector reaches the file in part; what is there
        // then is no header that leads to another image, and relocating again mends it.
        tests::FaultyStorage file(pair.cow->open(), plan);
        rewrite_header(file, header);
        EXPECT_EQ(path_on_disk(), header.backing_path);
      });
  EXPECT_EQ(path_on_disk(), header.backing_path);
}

TEST(FaultSweepOfFile, DescribingNeverGuesses) {
  const auto plan = std::make_shared<FaultPlan>();
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 40000}, random);
  const auto operations = sweep(
      *plan,
      [&] {
        const tests::FaultyStorage file(pair.cow->open(), plan);
        EXPECT_EQ(describe_cow(file).header, pair.header);
        (void)SectorMap(const_cast<tests::FaultyStorage&>(file), pair.layout).count();
      },
      [] {});
  EXPECT_GT(operations, 1U);
}

TEST(FaultSweepOfFile, WhatAKilledDaemonLeftIsAppliedInTheEnd) {
  const tests::TemporaryDirectory directory;
  tests::TestRandom random;
  const auto pair = tests::make_pair_on_disk(directory.path(), {.backing_size = 40000}, random);
  const auto open_file = [&] {
    return PosixStorage::open(pair.cow, Access::read_write, FileKinds::regular);
  };
  const auto run = directory / "run";
  const CowDescription description{pair.header, pair.layout};
  {
    auto pending = std::make_unique<PendingFile>(run, *open_file(), description,
                                                 PendingFile::Existing::replace);
    auto& file = *pending;
    CowImage image(watch_writes(open_file(), file),
                   PosixStorage::open(pair.backing, Access::read_only, FileKinds::regular),
                   pair.layout, false, std::move(pending));
    image.write(5 * 512, Bytes(512, std::byte{7}));
  }
  const auto plan = std::make_shared<FaultPlan>();
  const auto operations = sweep(
      *plan,
      [&] {
        const auto left = find_left_behind(run, *open_file(), description);
        tests::FaultyStorage cow(open_file(), plan);
        apply_left_behind(left, cow, description);
      },
      [&] {
        const auto left = find_left_behind(run, *open_file(), description);
        EXPECT_EQ(left.sectors, 1U) << "still there";
        EXPECT_NE(left.state, LeftBehind::State::conflict);
      });
  EXPECT_EQ(operations, 4U) << "read, sync, write, sync";
  EXPECT_TRUE(tests::bit_on_disk(*open_file(), pair.layout, 5));
  EXPECT_TRUE(tests::names_in(run).empty());
}

}  // namespace
}  // namespace cowfs::core
