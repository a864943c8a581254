// Who reads an image from one end to the other is recognised, and what lies ahead is asked for.

#include "cowcore/sequential_reads.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/sector.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/forwarding_storage.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

constexpr auto stride = SequentialReads::stride;

/// What is asked for while a reader reads so many strides in pieces of `length`.
std::vector<std::uint64_t> asked_for(SequentialReads& reads, std::uint64_t strides,
                                     std::uint64_t length) {
  std::vector<std::uint64_t> asked;
  for (std::uint64_t at = 0; at < strides * stride; at += length) {
    if (const auto ahead = reads.note(at, length)) asked.push_back(*ahead);
  }
  return asked;
}

TEST(SequentialReads, EachStrideIsAskedForOnceAndBeforeItIsRead) {
  for (const std::uint64_t length : {512U, 4096U, 5000U, 262144U, 1048576U}) {
    SCOPED_TRACE(length);
    SequentialReads reads;
    const auto asked = asked_for(reads, 5, length);
    ASSERT_GE(asked.size(), 4U);
    for (std::size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(asked[i], (i + 2) * stride);
  }
}

TEST(SequentialReads, ReadsLongerThanAStrideAskForWhatFollowsThem) {
  SequentialReads reads;
  EXPECT_FALSE(reads.note(0, 3 * stride));
  EXPECT_EQ(reads.note(3 * stride, 3 * stride), 6 * stride);
}

TEST(SequentialReads, SeveralReadersAreToldApart) {
  constexpr std::uint64_t readers = 5;
  constexpr std::uint64_t far = 1000 * stride;
  SequentialReads reads;
  std::vector<std::vector<std::uint64_t>> asked(readers);
  for (std::uint64_t at = 0; at < 4 * stride; at += 65536) {
    for (std::uint64_t reader = 0; reader < readers; ++reader) {
      if (const auto ahead = reads.note(reader * far + at, 65536)) {
        asked[reader].push_back(*ahead - reader * far);
      }
    }
  }
  const std::vector expected{2 * stride, 3 * stride, 4 * stride};
  for (const auto& of_reader : asked) EXPECT_EQ(of_reader, expected);
}

TEST(SequentialReads, NothingIsReadAheadOfWhoJumps) {
  SequentialReads reads;
  tests::TestRandom random;
  for (int i = 0; i < 100'000; ++i) {
    EXPECT_FALSE(reads.note(random.between(1, 1U << 30) * 4096 + 1, 4000));
  }
}

TEST(SequentialReads, TheFirstReadOfAnImageIsNoSequence) {
  SequentialReads reads;
  EXPECT_FALSE(reads.note(0, stride));
}

TEST(SequentialReads, OfReadsAtOncePartsOfTheSequenceMayBeMissedAndNothingElseIsAskedFor) {
  SequentialReads reads;
  std::atomic<std::uint64_t> next = 0;
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (auto at = next.fetch_add(65536); at < 100 * stride; at = next.fetch_add(65536)) {
        const auto ahead = reads.note(at, 65536);
        if (!ahead) continue;
        EXPECT_EQ(*ahead, round_up(at + 65536, stride));
      }
    });
  }
}

/// Notes what is to be read ahead.
class NotingStorage final : public tests::ForwardingStorage {
 public:
  struct Range {
    std::uint64_t offset;
    std::uint64_t length;
    bool operator==(const Range&) const = default;
  };

  NotingStorage(std::unique_ptr<Storage> inner, std::vector<Range>& ranges)
      : ForwardingStorage(std::move(inner)), ranges_(ranges) {}
  void prefetch(std::uint64_t offset, std::uint64_t length) const override {
    ranges_.push_back({offset, length});
  }

 private:
  std::vector<Range>& ranges_;
};

TEST(ReadingAhead, GoesToTheFileThatHoldsTheData) {
  tests::TestRandom random;
  auto pair = tests::make_pair_in_memory({.backing_size = 3 * stride}, random);
  std::vector<NotingStorage::Range> of_cow;
  std::vector<NotingStorage::Range> of_backing;
  CowImage image(std::make_unique<NotingStorage>(pair.cow->open(), of_cow),
                 std::make_unique<NotingStorage>(pair.backing->open(), of_backing), pair.layout,
                 false);
  constexpr std::uint64_t change = 2 * stride + 65536;
  constexpr std::uint64_t length = 8192;  // too short to be prefetched for itself
  image.write(change, random.bytes(65536));
  ReadView view(length);
  for (std::uint64_t at = 0; at < 2 * stride; at += length) {
    image.view(at, length, view);
    view.clear();
  }
  using Ranges = std::vector<NotingStorage::Range>;
  EXPECT_EQ(of_cow, (Ranges{{pair.layout.data_offset + change, 65536}}));
  EXPECT_EQ(of_backing, (Ranges{{2 * stride, 65536}, {change + 65536, stride - 131072}}));
}

TEST(ReadingAhead, ABitmapThatCannotBeReadFailsWhoReadsThereAndNobodyBefore) {
  constexpr std::uint64_t of_one_piece = std::uint64_t{16} << 20;  // the bitmap is read in pieces
  constexpr std::uint64_t length = std::uint64_t{256} << 10;
  tests::TestRandom random;
  auto pair = tests::make_pair_in_memory({.backing_size = of_one_piece + 2 * stride}, random);
  const auto plan = std::make_shared<tests::FaultPlan>();
  CowImage image(std::make_unique<tests::FaultyStorage>(pair.cow->open(), plan),
                 pair.backing->open(), pair.layout, false);
  plan->add({.lasting = true,
             .from_offset = pair.layout.bitmap_offset + of_one_piece / sector_bytes / 8});
  ReadView view(length);
  for (std::uint64_t at = of_one_piece - 2 * stride; at < of_one_piece; at += length) {
    EXPECT_NO_THROW(image.view(at, length, view)) << at;
    view.clear();
  }
  EXPECT_GT(plan->failures(), 0U);
  EXPECT_THROW(image.view(of_one_piece, length, view), std::system_error);
}

}  // namespace
}  // namespace cowfs::core
