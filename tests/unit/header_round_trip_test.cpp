// Headers to bytes and back, for every layout. The expected bytes are written by hand from the
// description of the format; fixtures_test.cpp has the headers that real programs wrote.

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cowcore/cow_header.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::core {
namespace {

using Bytes = std::vector<std::byte>;

struct Field {
  std::size_t at;
  std::string hex;
};

/// Zeros, save for the fields.
Bytes bytes_with(std::size_t length, const std::vector<Field>& fields) {
  Bytes bytes(length);
  for (const auto& field : fields) {
    for (std::size_t i = 0; i < field.hex.size() / 2; ++i) {
      bytes[field.at + i] =
          static_cast<std::byte>(std::stoul(field.hex.substr(2 * i, 2), nullptr, 16));
    }
  }
  return bytes;
}

// 1700000001 is 0x6553f101; 5 GiB and a sector are 0x1'4000'0200; "/b/k" is 2f 62 2f 6b.
constexpr std::uint32_t mtime = 0x6553f101;
constexpr std::uint64_t size = 0x1'4000'0200;

struct Golden {
  std::string name;
  CowHeader header;
  Bytes bytes;
  std::size_t path_at;
};

std::vector<Golden> golden_headers() {
  const auto header = [](HeaderFormat format, MagicOrder order, std::uint32_t alignment,
                         std::uint32_t sector_size = 512) {
    return CowHeader{format, order, mtime, size, sector_size, alignment, 0, "/b/k"};
  };
  return {
      {"V3", header(HeaderFormat::v3, MagicOrder::big, 4096),
       bytes_with(4128, {{0, "4f4f4f4d"},
                         {4, "00000003"},
                         {8, "6553f101"},
                         {12, "0000000140000200"},
                         {20, "00000200"},
                         {24, "00001000"},
                         {28, "00000000"},
                         {32, "2f622f6b"}}),
       32},
      {"V3LittleMagic", header(HeaderFormat::v3, MagicOrder::little, 512),
       bytes_with(4128, {{0, "4d4f4f4f"},
                         {4, "03000000"},
                         {8, "6553f101"},
                         {12, "0000000140000200"},
                         {20, "00000200"},
                         {24, "00000200"},
                         {32, "2f622f6b"}}),
       32},
      {"V3Wide", header(HeaderFormat::v3_wide, MagicOrder::big, 4096),
       bytes_with(4136, {{0, "4f4f4f4d"},
                         {4, "00000003"},
                         {8, "6553f10100000000"},
                         {16, "0000000140000200"},
                         {24, "00000200"},
                         {28, "00001000"},
                         {32, "00000000"},
                         {36, "2f622f6b"}}),
       36},
      {"V3WideLittleMagic", header(HeaderFormat::v3_wide, MagicOrder::little, 4096),
       bytes_with(4136, {{0, "4d4f4f4f"},
                         {4, "03000000"},
                         {8, "6553f101"},
                         {16, "0000000140000200"},
                         {24, "00000200"},
                         {28, "00001000"},
                         {36, "2f622f6b"}}),
       36},
      {"V2", header(HeaderFormat::v2, MagicOrder::big, 512),
       bytes_with(4120, {{0, "4f4f4f4d"},
                         {4, "00000002"},
                         {8, "2f622f6b"},
                         {4104, "6553f101"},
                         {4108, "0000000140000200"},
                         {4116, "00000200"}}),
       8},
      {"V2LittleMagic", header(HeaderFormat::v2, MagicOrder::little, 4096, 4096),
       bytes_with(4120, {{0, "4d4f4f4f"},
                         {4, "02000000"},
                         {8, "2f622f6b"},
                         {4104, "6553f101"},
                         {4108, "0000000140000200"},
                         {4116, "00001000"}}),
       8},
      {"V1", header(HeaderFormat::v1, MagicOrder::little, 512),
       bytes_with(280, {{0, "4d4f4f4f"},
                        {4, "01000000"},
                        {8, "2f622f6b"},
                        {264, "01f15365"},
                        {268, "0002004001000000"},
                        {276, "00020000"}}),
       8},
  };
}

class HeaderRoundTrip : public testing::TestWithParam<Golden> {};

TEST_P(HeaderRoundTrip, SerializesToTheGoldenBytes) {
  EXPECT_EQ(serialize_header(GetParam().header), GetParam().bytes);
}

TEST_P(HeaderRoundTrip, ParsesTheGoldenBytes) {
  EXPECT_EQ(parse_header(GetParam().bytes, "cow"), GetParam().header);
}

TEST_P(HeaderRoundTrip, LooksAtNothingBehindTheHeader) {
  auto bytes = GetParam().bytes;
  bytes.resize(bytes.size() + 10000, std::byte{0xff});
  EXPECT_EQ(parse_header(bytes, "cow"), GetParam().header);
}

TEST_P(HeaderRoundTrip, LeftoverMemoryAfterThePathIsIgnoredAndNotKept) {
  auto bytes = GetParam().bytes;
  const auto path_end = GetParam().path_at + 4;  // here is the NUL
  const auto field_bytes = longest_backing_path(GetParam().header.format) + 1;
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(path_end + 1), field_bytes - 5,
              std::byte{0xee});
  const auto header = parse_header(bytes, "cow");
  EXPECT_EQ(header, GetParam().header);
  EXPECT_EQ(serialize_header(header), GetParam().bytes);
}

TEST_P(HeaderRoundTrip, TheLongestPathFitsAndOneByteMoreDoesNot) {
  auto header = GetParam().header;
  header.backing_path = "/" + std::string(longest_backing_path(header.format) - 1, 'x');
  EXPECT_EQ(parse_header(serialize_header(header), "cow"), header);
  header.backing_path += 'x';
  EXPECT_THROW((void)serialize_header(header), std::length_error);
}

TEST_P(HeaderRoundTrip, ExtremeValuesComeBack) {
  auto header = GetParam().header;
  const bool is_v3 = header.format == HeaderFormat::v3 || header.format == HeaderFormat::v3_wide;
  header.backing_mtime = 0xffffffff;
  header.backing_size = std::uint64_t{1} << 62;
  header.sector_size = 1U << 16;
  header.alignment = is_v3 ? 1U << 24 : header.sector_size;
  header.backing_path = "/\x01\xff \n,";
  EXPECT_EQ(parse_header(serialize_header(header), "cow"), header);
}

TEST_P(HeaderRoundTrip, IsRecognizedByItsMagic) {
  const std::span bytes(GetParam().bytes);
  EXPECT_TRUE(has_cow_magic(bytes));
  EXPECT_TRUE(has_cow_magic(bytes.first(4)));
  EXPECT_FALSE(has_cow_magic(bytes.first(3)));
  EXPECT_FALSE(has_cow_magic(bytes.first(0)));
  EXPECT_FALSE(has_cow_magic(bytes.subspan(1)));
}

INSTANTIATE_TEST_SUITE_P(All, HeaderRoundTrip, testing::ValuesIn(golden_headers()),
                         [](const auto& test) { return test.param.name; });

TEST(HeaderFields, LengthsAreThoseOfTheFormat) {
  EXPECT_EQ(header_length(HeaderFormat::v1), 280U);
  EXPECT_EQ(header_length(HeaderFormat::v2), 4120U);
  EXPECT_EQ(header_length(HeaderFormat::v3), 4128U);
  EXPECT_EQ(header_length(HeaderFormat::v3_wide), 4136U);
  EXPECT_EQ(longest_header, 4136U);
  EXPECT_EQ(longest_backing_path(HeaderFormat::v1), 255U);
  EXPECT_EQ(longest_backing_path(HeaderFormat::v2), 4095U);
  EXPECT_EQ(longest_backing_path(HeaderFormat::v3), 4095U);
  EXPECT_EQ(longest_backing_path(HeaderFormat::v3_wide), 4095U);
}

TEST(HeaderFields, AnUnknownCowFormatIsKept) {
  for (const auto format : {HeaderFormat::v3, HeaderFormat::v3_wide}) {
    auto header = tests::make_header({.format = format});
    header.cow_format = format == HeaderFormat::v3 ? 0xdeadbeef : 0;
    EXPECT_EQ(parse_header(serialize_header(header), "cow"), header);
  }
}

TEST(HeaderFields, AShortRelativePathIsNoSignOfTheWideForm) {
  auto header = tests::make_header({.format = HeaderFormat::v3});
  header.backing_path = "b";
  EXPECT_EQ(parse_header(serialize_header(header), "cow"), header);
}

}  // namespace
}  // namespace cowfs::core
