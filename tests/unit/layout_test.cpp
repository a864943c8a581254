// Where the bitmap and the data lie: worked examples, and laws that hold for every layout and size.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::Shape;

CowLayout layout_of(const Shape& shape) { return compute_layout(tests::make_header(shape), "cow"); }

struct Example {
  const char* name;
  Shape shape;
  CowLayout expected;
};

/// The sizes of the first eight are those of the golden files, whose lengths bear them out: a COW
/// file ends at data_offset + backing_size, or at a whole sector.
std::vector<Example> examples() {
  using enum HeaderFormat;
  return {
      // name, shape, {header, bitmap at, bitmap length, data at, backing, merged, sectors, with
      // bit}
      {"V3", {v3, 1048576}, {4128, 8192, 256, 12288, 1048576, 1048576, 2048, 2048}},
      {"V3OddSize", {v3, 10485761}, {4128, 8192, 2561, 12288, 10485761, 10486272, 20481, 20481}},
      {"V3OddSize2", {v3, 3000001}, {4128, 8192, 733, 12288, 3000001, 3000320, 5860, 5860}},
      {"V3Of5GiB",
       {v3, 5368709120},
       {4128, 8192, 1310720, 1318912, 5368709120, 5368709120, 10485760, 10485760}},
      {"V3Alignment512",
       {v3, 1049088, MagicOrder::big, 512, 512},
       {4128, 4608, 257, 5120, 1049088, 1049088, 2049, 2049}},
      {"V3Wide", {v3_wide, 1049088}, {4136, 8192, 257, 12288, 1049088, 1049088, 2049, 2049}},
      {"V2", {v2, 1048576}, {4120, 4120, 256, 4608, 1048576, 1048576, 2048, 2048}},
      {"V2WithTail", {v2, 1050112}, {4120, 4120, 256, 4608, 1050112, 1050112, 2051, 2048}},
      {"V1",
       {v1, 1048576, MagicOrder::little},
       {280, 280, 256, 1024, 1048576, 1048576, 2048, 2048}},
      // (8*512 - 1 + 511) / 4096 = 1 byte: the rounding up of the last sector saves it
      {"V2LastSectorCut", {v2, 4095}, {4120, 4120, 1, 4608, 4095, 4096, 8, 8}},
      {"V2SevenSectors", {v2, 3584}, {4120, 4120, 0, 4608, 3584, 3584, 7, 0}},
      {"V1FifteenSectors", {v1, 7680, MagicOrder::little}, {280, 280, 1, 512, 7680, 7680, 15, 8}},
      // A larger sector size only enters the bitmap's length: then half of the sectors have no bit.
      {"V3SectorSize1024",
       {v3, 1048576, MagicOrder::big, 1024},
       {4128, 8192, 128, 12288, 1048576, 1048576, 2048, 1024}},
      {"V2SectorSize4096",
       {v2, 1048576, MagicOrder::big, 4096},
       {4120, 4120, 32, 8192, 1048576, 1048576, 2048, 256}},
      {"V3OneByte", {v3, 1}, {4128, 8192, 1, 12288, 1, 512, 1, 1}},
      {"V3Empty", {v3, 0}, {4128, 8192, 0, 8192, 0, 0, 0, 0}},
      {"V3Alignment64K",
       {v3, 1048576, MagicOrder::big, 512, 65536},
       {4128, 65536, 256, 131072, 1048576, 1048576, 2048, 2048}},
      {"V3BitmapEndsAtAPage",
       {v3, 16777216},
       {4128, 8192, 4096, 12288, 16777216, 16777216, 32768, 32768}},
      {"V3BitmapEndsAfterAPage",
       {v3, 16777217},
       {4128, 8192, 4097, 16384, 16777217, 16777728, 32769, 32769}},
  };
}

class LayoutExample : public testing::TestWithParam<Example> {};

TEST_P(LayoutExample, IsAsWorkedOutByHand) {
  const auto found = layout_of(GetParam().shape);
  const auto& expected = GetParam().expected;
  EXPECT_EQ(found.header_length, expected.header_length);
  EXPECT_EQ(found.bitmap_offset, expected.bitmap_offset);
  EXPECT_EQ(found.bitmap_length, expected.bitmap_length);
  EXPECT_EQ(found.data_offset, expected.data_offset);
  EXPECT_EQ(found.backing_size, expected.backing_size);
  EXPECT_EQ(found.merged_size, expected.merged_size);
  EXPECT_EQ(found.sectors, expected.sectors);
  EXPECT_EQ(found.sectors_with_bit, expected.sectors_with_bit);
  EXPECT_EQ(found.every_sector_has_bit(), expected.sectors == expected.sectors_with_bit);
}

INSTANTIATE_TEST_SUITE_P(All, LayoutExample, testing::ValuesIn(examples()),
                         [](const auto& test) { return std::string(test.param.name); });

void check_laws(const Shape& shape, const CowLayout& layout) {
  const bool is_v3 = shape.format == HeaderFormat::v3 || shape.format == HeaderFormat::v3_wide;
  const std::uint64_t unit = is_v3 ? shape.alignment : shape.sector_size;
  ASSERT_LE(layout.header_length, layout.bitmap_offset);
  ASSERT_LE(layout.bitmap_offset + layout.bitmap_length, layout.data_offset);
  ASSERT_LT(layout.data_offset - (layout.bitmap_offset + layout.bitmap_length), unit);
  ASSERT_EQ(layout.data_offset % sector_bytes, 0U);
  ASSERT_EQ(layout.data_offset % unit, 0U);
  ASSERT_EQ(layout.merged_size, layout.sectors * sector_bytes);
  ASSERT_GE(layout.merged_size, layout.backing_size);
  ASSERT_LT(layout.merged_size - layout.backing_size, sector_bytes);
  ASSERT_LE(layout.sectors_with_bit, layout.sectors);
  ASSERT_LE(layout.sectors_with_bit, layout.bitmap_length * 8);
  if (is_v3 && shape.sector_size == sector_bytes) {
    ASSERT_TRUE(layout.every_sector_has_bit());
  }
  if (!is_v3 && shape.sector_size == sector_bytes) {
    ASSERT_LE(layout.sectors - layout.sectors_with_bit, 7U);
    ASSERT_EQ(layout.sectors_with_bit, layout.sectors / 8 * 8);
  }
  // Everything is at an offset that a file can have.
  ASSERT_LT(layout.data_offset + layout.merged_size, std::uint64_t{1} << 63);
}

std::vector<Shape> shapes_with_every_unit() {
  auto shapes = tests::every_layout(0);
  for (const auto format : {HeaderFormat::v3, HeaderFormat::v3_wide, HeaderFormat::v2}) {
    for (const std::uint32_t sector_size : {1024U, 4096U, 65536U}) {
      for (const std::uint32_t alignment : {512U, 4096U, 1U << 24}) {
        shapes.push_back({format, 0, MagicOrder::big, sector_size, alignment});
      }
    }
  }
  return shapes;
}

TEST(LayoutLaws, HoldForRandomSizesAndGrowWithTheBacking) {
  SCOPED_TRACE(tests::seed_hint());
  tests::TestRandom random;
  for (auto shape : shapes_with_every_unit()) {
    SCOPED_TRACE(tests::shape_name(shape));
    CowLayout last{};
    shape.backing_size = 0;
    for (int step = 0; step < 2000; ++step) {
      const auto layout = layout_of(shape);
      check_laws(shape, layout);
      if (testing::Test::HasFatalFailure()) return;
      ASSERT_GE(layout.bitmap_length, last.bitmap_length);
      ASSERT_GE(layout.data_offset, last.data_offset);
      ASSERT_GE(layout.sectors, last.sectors);
      ASSERT_GE(layout.sectors_with_bit, last.sectors_with_bit);
      last = layout;
      // First byte by byte around the edges of the first sectors, then in ever larger steps.
      const auto largest = std::uint64_t{1} << 62;
      const auto rest = largest - shape.backing_size;
      if (rest == 0) break;
      const auto reach = std::min(rest, std::uint64_t{1} << std::min(step / 32, 61));
      shape.backing_size += random.between(1, reach);
    }
  }
}

TEST(LayoutLaws, TheLargestBackingThatIsAcceptedDoesNotOverflow) {
  for (auto shape : shapes_with_every_unit()) {
    SCOPED_TRACE(tests::shape_name(shape));
    shape.backing_size = std::uint64_t{1} << 62;
    check_laws(shape, layout_of(shape));
    ++shape.backing_size;
    EXPECT_THROW((void)layout_of(shape), DamagedCow);
    shape.backing_size = ~std::uint64_t{0};
    EXPECT_THROW((void)layout_of(shape), DamagedCow);
  }
}

}  // namespace
}  // namespace cowfs::core
