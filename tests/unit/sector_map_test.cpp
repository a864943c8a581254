// The map of sectors against a plain list of bits, one thread.

#include "cowcore/sector_map.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

#include "tests/support/cow_pair.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::Shape;

constexpr SectorCount chunk_sectors = 32768;  // 4 KiB of bitmap

/// A COW in memory whose bitmap holds what `bits` says.
struct Bitmap {
  explicit Bitmap(const Shape& shape) : header(tests::make_header(shape)) {
    layout = compute_layout(header, "cow");
    storage = file->open();
    tests::make_empty_cow(*storage, header);
    bits.resize(layout.sectors);
  }

  /// Sets bits in the file, as an earlier flush would have done.
  void preset(SectorNumber first, SectorCount count) {
    const auto begin = first / 8;
    std::vector<std::byte> bytes((first + count - 1) / 8 + 1 - begin);
    storage->read(layout.bitmap_offset + begin, bytes);
    for (auto sector = first; sector < first + count; ++sector) {
      bytes[sector / 8 - begin] |= std::byte{1} << (sector % 8);
      bits[sector] = true;
    }
    storage->write(layout.bitmap_offset + begin, bytes);
  }

  [[nodiscard]] std::vector<bool> on_disk() const {
    std::vector<std::byte> bytes(layout.bitmap_length);
    storage->read(layout.bitmap_offset, bytes);
    std::vector<bool> found(layout.sectors);
    for (SectorNumber i = 0; i < layout.sectors_with_bit; ++i) {
      found[i] = (bytes[i / 8] >> (i % 8) & std::byte{1}) != std::byte{};
    }
    return found;
  }

  std::shared_ptr<tests::MemoryFile> file = tests::MemoryFile::make("cow");
  CowHeader header;
  CowLayout layout;
  std::unique_ptr<Storage> storage;
  std::vector<bool> bits;
};

SectorMap::Run run_in(const std::vector<bool>& bits, SectorNumber first, SectorCount limit) {
  SectorCount length = 1;
  while (length < limit && bits[first + length] == bits[first]) ++length;
  return {length, bits[first]};
}

void mark(SectorMap& map, SectorNumber first, SectorCount count) {
  map.prepare(first, count);
  map.set(first, count);
}

void flush(SectorMap& map, PendingWords& words) {
  map.take_pending(words);
  map.write_pending(words);
  map.settle(words);
}

class SectorMapModel : public testing::TestWithParam<Shape> {
 protected:
  SectorMapModel() : bitmap_(GetParam()), trace_(__FILE__, __LINE__, tests::seed_hint()) {
    // Chunks that are full, empty (and holes), sparse, and with long runs over their edges.
    const auto bits = bitmap_.layout.sectors_with_bit;
    for (SectorNumber at = 0; at < bits;) {
      const auto length = std::min<SectorCount>(bits - at, random_.between(1, 100));
      if (random_.one_in(2)) bitmap_.preset(at, length);
      at += length;
      if (random_.one_in(100)) at += random_.between(1, 2 * chunk_sectors);
    }
  }

  [[nodiscard]] const std::vector<bool>& bits() const { return bitmap_.bits; }

  /// Often at the edges of words and chunks.
  SectorNumber random_sector(SectorCount below) {
    const SectorCount unit = random_.one_in(3) ? chunk_sectors : random_.one_in(2) ? 64 : 1;
    const auto edge = random_.between(0, below / unit) * unit + random_.between(0, 2);
    return std::min(below - 1, edge == 0 ? 0 : edge - 1);
  }

  void check_queries(const SectorMap& map, int count) {
    const auto sectors = bitmap_.layout.sectors;
    for (int i = 0; i < count; ++i) {
      const auto first = random_sector(sectors);
      const auto limit = random_.between(1, sectors - first);
      const auto expected = run_in(bits(), first, limit);
      const auto found = map.run(first, limit);
      ASSERT_EQ(found.length, expected.length) << first << "+" << limit;
      ASSERT_EQ(found.in_cow, expected.in_cow) << first << "+" << limit;
      ASSERT_EQ(map.in_cow(first), bits()[first]) << first;
    }
  }

  [[nodiscard]] SectorCount set_bits() const {
    return static_cast<SectorCount>(std::ranges::count(bits(), true));
  }

  tests::TestRandom random_;
  Bitmap bitmap_;
  testing::ScopedTrace trace_;
};

TEST_P(SectorMapModel, AnswersAsTheBitmapInTheFile) {
  const SectorMap map(*bitmap_.storage, bitmap_.layout);
  check_queries(map, 300);
  EXPECT_EQ(map.count(), set_bits());
  check_queries(map, 300);
}

TEST_P(SectorMapModel, CountsWithoutHavingBeenAskedBefore) {
  EXPECT_EQ(SectorMap(*bitmap_.storage, bitmap_.layout).count(), set_bits());
}

TEST_P(SectorMapModel, WalksTheWholeImageInRuns) {
  const SectorMap map(*bitmap_.storage, bitmap_.layout);
  std::vector<bool> found;
  for (SectorNumber at = 0; at < bitmap_.layout.sectors;) {
    const auto run = map.run(at, bitmap_.layout.sectors - at);
    ASSERT_GE(run.length, 1U);
    found.insert(found.end(), run.length, run.in_cow);
    at += run.length;
  }
  EXPECT_TRUE(found == bits());
}

TEST_P(SectorMapModel, BitsThatStandForNoSectorMayHoldAnything) {
  // The rest of the last byte, and all between the bitmap and the data.
  const auto& layout = bitmap_.layout;
  for (auto bit = layout.sectors_with_bit; bit < layout.bitmap_length * 8; ++bit) {
    tests::set_bit_on_disk(*bitmap_.storage, layout, bit);
  }
  const auto end = layout.bitmap_offset + layout.bitmap_length;
  bitmap_.storage->write(end, std::vector(layout.data_offset + 4096 - end, std::byte{0xff}));
  SectorMap map(*bitmap_.storage, layout);
  EXPECT_EQ(map.count(), set_bits());
  check_queries(map, 300);
}

TEST_P(SectorMapModel, SetsAndFlushesAsTheModelDoes) {
  const auto& layout = bitmap_.layout;
  const auto behind = layout.bitmap_offset + layout.bitmap_length;
  bitmap_.storage->write(behind, std::vector(100, std::byte{0xee}));
  SectorMap map(*bitmap_.storage, layout);
  PendingWords words;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 20; ++i) {
      const auto first = random_sector(layout.sectors_with_bit);
      const auto longest = std::min<SectorCount>(layout.sectors_with_bit - first,
                                                 random_.one_in(20) ? 3 * chunk_sectors : 200);
      const auto count = random_.between(1, longest);
      mark(map, first, count);
      std::fill_n(bitmap_.bits.begin() + static_cast<std::ptrdiff_t>(first), count, true);
    }
    check_queries(map, 50);
    if (random_.one_in(2)) {
      flush(map, words);
      ASSERT_TRUE(bitmap_.on_disk() == bits());
    }
  }
  flush(map, words);
  EXPECT_TRUE(bitmap_.on_disk() == bits());
  EXPECT_EQ(map.count(), set_bits());
  std::array<std::byte, 100> untouched;
  bitmap_.storage->read(behind, untouched);
  EXPECT_TRUE(std::ranges::all_of(untouched, [](auto b) { return b == std::byte{0xee}; }))
      << "the flush wrote behind the bitmap";
  const SectorMap again(*bitmap_.storage, layout);
  check_queries(again, 100);
}

std::vector<Shape> model_shapes() {
  auto shapes = tests::every_layout(512 * (4 * chunk_sectors));
  for (const SectorCount sectors :
       {1U, 7U, 8U, 9U, 63U, 64U, 65U, 1000U, 32767U, 32768U, 32769U, 65536U + 8U, 100000U}) {
    shapes.push_back({.backing_size = sectors * 512});
    shapes.push_back({.backing_size = sectors * 512 - 1});
  }
  // With sectors that have no bit.
  for (const SectorCount sectors : {15U, 2051U, 65536U + 7U}) {
    shapes.push_back({.format = HeaderFormat::v2, .backing_size = sectors * 512});
  }
  shapes.push_back({.backing_size = 512 * chunk_sectors, .sector_size = 1024});
  return shapes;
}

INSTANTIATE_TEST_SUITE_P(Shapes, SectorMapModel, testing::ValuesIn(model_shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST(SectorMap, ReadsNothingUntilAskedAndThenOnlyOneChunk) {
  const Bitmap bitmap({.backing_size = 512 * 4 * chunk_sectors});
  tests::set_bit_on_disk(*bitmap.storage, bitmap.layout, 5);
  tests::set_bit_on_disk(*bitmap.storage, bitmap.layout, chunk_sectors + 5);
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = tests::Operation::read,
             .error = EIO,
             .lasting = true,
             .from_offset = bitmap.layout.bitmap_offset + 4096});
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  const SectorMap map(storage, bitmap.layout);
  EXPECT_TRUE(map.in_cow(5));
  EXPECT_EQ(map.run(6, 1000).length, 1000U);
  EXPECT_EQ(plan->failures(), 0U);

  EXPECT_THROW((void)map.in_cow(chunk_sectors + 5), std::system_error);
  plan->heal();
  EXPECT_TRUE(map.in_cow(chunk_sectors + 5)) << "a failed read was taken for an answer";
}

TEST(SectorMap, DoesNotReadHolesOfTheBitmap) {
  const Bitmap bitmap({.backing_size = std::uint64_t{1} << 40});
  const SectorNumber far = 30000 * chunk_sectors + 77;
  tests::set_bit_on_disk(*bitmap.storage, bitmap.layout, far);
  const auto plan = std::make_shared<tests::FaultPlan>();
  // From the second to the last chunk before the bit, a read is a failure.
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  const SectorMap map(storage, bitmap.layout);
  (void)map.in_cow(0);
  plan->add({.operation = tests::Operation::read, .nth = 3, .error = EIO, .lasting = true});
  EXPECT_EQ(map.run(0, bitmap.layout.sectors).length, far);
  EXPECT_EQ(map.run(far, bitmap.layout.sectors - far).length, 1U);
  EXPECT_EQ(map.count(), 1U);
}

TEST(SectorMap, SkipsTheHolesOfAHugeBitmapAtOnce) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "takes more address space than the sanitizer leaves";
#endif
  const auto header = tests::make_header({.backing_size = std::uint64_t{1} << 57});
  const auto layout = compute_layout(header, "cow");
  const auto storage = tests::MemoryFile::make("cow")->open();
  tests::make_empty_cow(*storage, header);
  const std::array<SectorNumber, 3> in_file{77, layout.sectors / 3, layout.sectors - 1};
  for (const auto sector : in_file) tests::set_bit_on_disk(*storage, layout, sector);
  SectorMap map(*storage, layout);
  const SectorNumber unflushed = layout.sectors / 2;
  mark(map, unflushed, 1);

  std::vector<SectorNumber> found;
  for (SectorNumber at = 0; at < layout.sectors;) {
    const auto run = map.run(at, layout.sectors - at);
    if (run.in_cow) found.push_back(at);
    at += run.length;
  }
  EXPECT_EQ(found, (std::vector{in_file[0], in_file[1], unflushed, in_file[2]}));
  EXPECT_EQ(map.count(), 4U);
  PendingWords words;
  flush(map, words);
  EXPECT_TRUE(tests::bit_on_disk(*storage, layout, unflushed));
}

TEST(SectorMap, CountingKeepsNothing) {
  const Bitmap bitmap({.backing_size = 512 * 4 * chunk_sectors});
  for (SectorNumber chunk = 0; chunk < 4; ++chunk) {
    tests::set_bit_on_disk(*bitmap.storage, bitmap.layout, chunk * chunk_sectors + 9);
  }
  SectorMap map(*bitmap.storage, bitmap.layout);
  EXPECT_EQ(map.count(), 4U);
  tests::set_bit_on_disk(*bitmap.storage, bitmap.layout, 10);
  EXPECT_TRUE(map.in_cow(10)) << "a chunk that was only counted is in memory";
  mark(map, 20, 1);
  EXPECT_EQ(map.count(), 6U) << "what is not in the file yet has to be counted all the same";
}

TEST(SectorMap, PreparingTellsOfAFailedReadAndSetsNothing) {
  const Bitmap bitmap({});
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = tests::Operation::read, .error = EIO});
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  SectorMap map(storage, bitmap.layout);
  EXPECT_THROW(map.prepare(0, 1), std::system_error);
  EXPECT_FALSE(map.in_cow(0));
  PendingWords words;
  map.take_pending(words);
  EXPECT_TRUE(words.empty());
}

TEST(SectorMap, PreparingReadsAllChunksOfTheRange) {
  const Bitmap bitmap({.backing_size = 512 * 3 * chunk_sectors});
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = tests::Operation::read, .nth = 3, .error = EIO});
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  SectorMap map(storage, bitmap.layout);
  EXPECT_THROW(map.prepare(0, 3 * chunk_sectors), std::system_error);
  map.prepare(0, 3 * chunk_sectors);
  plan->add({.error = EIO, .lasting = true});
  map.set(0, 3 * chunk_sectors);
  EXPECT_EQ(map.run(0, 3 * chunk_sectors).length, 3 * chunk_sectors);
}

TEST(SectorMap, PreparingTakesRoomForTheBitsOnceForEachChunk) {
  const Bitmap bitmap({.backing_size = 512 * 2 * chunk_sectors + 512 * 100});
  const auto log = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage storage(bitmap.file->open(), log);
  SectorMap map(storage, bitmap.layout);
  map.prepare(chunk_sectors + 5, chunk_sectors);
  map.prepare(2 * chunk_sectors, 1);
  const auto at = bitmap.layout.bitmap_offset;
  EXPECT_EQ(tests::describe(log->operations()),
            "reserve " + std::to_string(at + 4096) + "+4096\n" +  //
                "reserve " + std::to_string(at + 8192) + "+13\n");
}

TEST(SectorMap, AFullDiskIsToldWhenPreparingAndTriedAgain) {
  const Bitmap bitmap({});
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = tests::Operation::reserve, .error = ENOSPC, .lasting = true});
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  SectorMap map(storage, bitmap.layout);
  EXPECT_THROW(map.prepare(0, 1), std::system_error);
  EXPECT_THROW(map.prepare(0, 1), std::system_error);
  plan->heal();
  map.prepare(0, 1);
  EXPECT_EQ(plan->failures(), 2U);
}

TEST(SectorMap, AFileSystemThatCannotReserveDoesWithout) {
  const Bitmap bitmap({});
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = tests::Operation::reserve, .error = EOPNOTSUPP, .lasting = true});
  tests::FaultyStorage storage(bitmap.file->open(), plan);
  SectorMap map(storage, bitmap.layout);
  map.prepare(0, 1);
  map.prepare(0, 1);
  EXPECT_EQ(plan->failures(), 1U) << "asked again in vain";
}

class SectorMapFlush : public testing::Test {
 protected:
  Bitmap bitmap_{{.backing_size = 512 * 3 * chunk_sectors}};
  std::shared_ptr<tests::OperationLog> log_ = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage storage_{bitmap_.file->open(), log_};
  SectorMap map_{storage_, bitmap_.layout};
  PendingWords words_;
};

TEST_F(SectorMapFlush, SettingWritesNothing) {
  map_.prepare(0, 3 * chunk_sectors);
  log_->clear();
  map_.set(0, 3 * chunk_sectors);
  EXPECT_TRUE(log_->operations().empty());
}

TEST_F(SectorMapFlush, NothingSetIsNothingTaken) {
  map_.take_pending(words_);
  EXPECT_TRUE(words_.empty());
}

TEST_F(SectorMapFlush, WhatIsSetAlreadyIsNotPending) {
  bitmap_.preset(100, 10);
  mark(map_, 102, 5);
  map_.take_pending(words_);
  EXPECT_TRUE(words_.empty());
  mark(map_, 200, 1);
  flush(map_, words_);
  mark(map_, 200, 1);
  map_.take_pending(words_);
  EXPECT_TRUE(words_.empty());
}

TEST_F(SectorMapFlush, WritesOnlyTheWordsWithNewBits) {
  mark(map_, 64 * 10, 1);
  mark(map_, chunk_sectors + 64 * 5 + 63, 1);
  log_->clear();
  flush(map_, words_);
  const auto at = bitmap_.layout.bitmap_offset;
  EXPECT_EQ(tests::describe(log_->operations()),
            "write " + std::to_string(at + 80) + "+8\n" +  //
                "write " + std::to_string(at + 4096 + 40) + "+8\n");
}

TEST_F(SectorMapFlush, KeepsTheBitsOnDiskInTheWordsThatItWrites) {
  bitmap_.preset(3, 1);
  bitmap_.preset(130, 1);
  mark(map_, 5, 1);
  mark(map_, 200, 1);
  flush(map_, words_);
  auto expected = bitmap_.bits;
  expected[5] = expected[200] = true;
  EXPECT_TRUE(bitmap_.on_disk() == expected);
}

TEST_F(SectorMapFlush, ABitThatIsSetAfterTheTakeWaitsForTheNextFlush) {
  mark(map_, 10, 1);
  map_.take_pending(words_);
  mark(map_, 11, 1);                 // the same word
  mark(map_, 64 * 3, 1);             // another word of the chunk
  mark(map_, 2 * chunk_sectors, 1);  // another chunk
  map_.write_pending(words_);
  auto expected = bitmap_.bits;
  expected[10] = true;
  EXPECT_TRUE(bitmap_.on_disk() == expected) << "more than was taken is on disk";
  map_.settle(words_);

  flush(map_, words_);
  expected[11] = expected[64 * 3] = expected[2 * chunk_sectors] = true;
  EXPECT_TRUE(bitmap_.on_disk() == expected) << "settle forgot bits that were not written";
}

TEST_F(SectorMapFlush, ASectorThatIsSetAgainBetweenTakeAndSettleIsOnDiskAllTheSame) {
  mark(map_, 10, 1);
  map_.take_pending(words_);
  mark(map_, 10, 1);
  map_.write_pending(words_);
  map_.settle(words_);
  EXPECT_TRUE(tests::bit_on_disk(*bitmap_.storage, bitmap_.layout, 10));
}

TEST_F(SectorMapFlush, TheLastBytesOfTheBitmapAreWrittenAndNoneBehind) {
  Bitmap odd({.backing_size = 512 * 75});  // 10 bytes of bitmap: a word and 2 bytes
  const auto log = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage storage(odd.file->open(), log);
  SectorMap map(storage, odd.layout);
  mark(map, 74, 1);
  log->clear();
  flush(map, words_);
  EXPECT_EQ(tests::describe(log->operations()),
            "write " + std::to_string(odd.layout.bitmap_offset + 8) + "+2\n");
  EXPECT_TRUE(tests::bit_on_disk(*odd.storage, odd.layout, 74));
}

}  // namespace
}  // namespace cowfs::core
