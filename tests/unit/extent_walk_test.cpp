// Walking over the bitmap and over the extents, against the image itself.

#include "cowcore/extent_walk.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "cowcore/bitmap_walk.hpp"
#include "cowcore/cow_image.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::Shape;

std::vector<SectorRange> runs_of(const Storage& cow, const CowLayout& layout) {
  std::vector<SectorRange> runs;
  BitmapWalk walk(cow, layout);
  while (const auto run = walk.next()) runs.push_back(*run);
  EXPECT_EQ(walk.next(), std::nullopt) << "after the last one there is none";
  return runs;
}

std::vector<Extent> extents_of(const Storage& cow, const Storage& backing,
                               const CowLayout& layout) {
  std::vector<Extent> extents;
  ExtentWalk walk(cow, backing, layout);
  while (const auto extent = walk.next()) extents.push_back(*extent);
  EXPECT_EQ(walk.next(), std::nullopt) << "after the last one there is none";
  return extents;
}

class Walk : public testing::TestWithParam<Shape> {
 protected:
  Walk() : trace_(__FILE__, __LINE__, tests::seed_hint()) {}

  /// Data, holes and bits in any mixture.
  void change_at_random() {
    const auto cow = pair_.cow->open();
    const auto& layout = pair_.layout;
    for (int i = 0; i < 60 && layout.sectors_with_bit > 0; ++i) {
      const auto first = random_.between(0, layout.sectors_with_bit - 1);
      const auto count =
          std::min<SectorCount>(layout.sectors_with_bit - first, random_.between(1, 100));
      for (auto sector = first; sector < first + count; ++sector) {
        tests::set_bit_on_disk(*cow, layout, sector);
      }
      if (random_.one_in(3)) continue;
      cow->write(layout.data_offset + first * sector_bytes,
                 std::vector(count * sector_bytes, std::byte{5}));
    }
  }

  tests::TestRandom random_;
  testing::ScopedTrace trace_;
  tests::PairInMemory pair_ = tests::make_pair_in_memory(GetParam(), random_);
};

TEST_P(Walk, OverTheBitmapGivesTheRunsOfTheMap) {
  for (int round = 0; round < 5; ++round) {
    std::vector<SectorRange> expected;
    const auto cow = pair_.cow->open();
    const SectorMap map(*cow, pair_.layout);
    for (SectorNumber at = 0; at < pair_.layout.sectors;) {
      const auto run = map.run(at, pair_.layout.sectors - at);
      if (run.in_cow) expected.push_back({at, run.length});
      at += run.length;
    }
    ASSERT_EQ(runs_of(*cow, pair_.layout), expected);
    change_at_random();
  }
}

TEST_P(Walk, OverTheExtentsGivesThoseOfTheImageJoined) {
  for (int round = 0; round < 5; ++round) {
    const auto image = pair_.open();
    std::vector<Extent> expected;
    for (std::uint64_t at = 0; at < image->size();) {
      const auto extent = image->extent(at, image->size() - at);
      if (!expected.empty() && expected.back().source == extent.source) {
        expected.back().length += extent.length;
      } else {
        expected.push_back(extent);
      }
      at += extent.length;
    }
    ASSERT_EQ(extents_of(*pair_.cow->open(), *pair_.backing->open(), pair_.layout), expected);
    change_at_random();
  }
}

TEST_P(Walk, IgnoresBitsThatStandForNoSector) {
  change_at_random();
  const auto& layout = pair_.layout;
  const auto cow = pair_.cow->open();
  const auto before = runs_of(*cow, layout);
  const auto end = layout.bitmap_offset + layout.bitmap_length;
  if (layout.data_offset > end) {
    cow->write(end, std::vector(layout.data_offset - end, std::byte{0xff}));
  }
  for (auto bit = layout.sectors_with_bit; bit < layout.bitmap_length * 8; ++bit) {
    tests::set_bit_on_disk(*cow, layout, bit);
  }
  EXPECT_EQ(runs_of(*cow, layout), before);
}

std::vector<Shape> shapes() {
  auto all = tests::every_layout(3 << 20);
  for (const std::uint64_t size : {0U, 1U, 512U, 513U, 32767U, 32768U, 33000U, 5000001U}) {
    all.push_back({.backing_size = size});
  }
  all.push_back({.backing_size = 40 << 20});
  all.push_back({.format = HeaderFormat::v2, .backing_size = 2051 * 512});
  all.push_back({.backing_size = 1 << 20, .sector_size = 1024});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Walk, testing::ValuesIn(shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST(BitmapWalk, ReadsABitmapThatIsLongerThanItsBuffer) {
  const auto header = tests::make_header({.backing_size = std::uint64_t{1} << 30});
  const auto layout = compute_layout(header, "cow");
  const auto cow = tests::MemoryFile::make("cow")->open();
  tests::make_empty_cow(*cow, header);
  cow->write(layout.bitmap_offset, std::vector(layout.bitmap_length, std::byte{0xff}));
  EXPECT_EQ(runs_of(*cow, layout), (std::vector{SectorRange{0, layout.sectors}}));
  cow->write(layout.bitmap_offset + 100000, std::vector(1, std::byte{0xfe}));
  EXPECT_EQ(runs_of(*cow, layout),
            (std::vector{SectorRange{0, 800000}, SectorRange{800001, layout.sectors - 800001}}));
}

TEST(BitmapWalk, SkipsTheHolesOfAHugeBitmapAtOnce) {
  const auto header = tests::make_header({.backing_size = std::uint64_t{1} << 61});
  const auto layout = compute_layout(header, "cow");
  const auto cow = tests::MemoryFile::make("cow")->open();
  tests::make_empty_cow(*cow, header);
  const std::array<SectorNumber, 3> bits{5, layout.sectors / 3, layout.sectors - 1};
  for (const auto bit : bits) tests::set_bit_on_disk(*cow, layout, bit);
  const auto runs = runs_of(*cow, layout);
  EXPECT_EQ(runs, (std::vector{SectorRange{bits[0], 1}, SectorRange{bits[1], 1},
                               SectorRange{bits[2], 1}}));
}

}  // namespace
}  // namespace cowfs::core
