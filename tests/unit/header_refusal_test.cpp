// Bytes that are no header, or not a sound one: always DamagedCow, never a crash, never a guess.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Bytes = std::vector<std::byte>;

std::string refusal(std::span<const std::byte> bytes) {
  try {
    const auto header = parse_header(bytes, "some.cow");
    (void)compute_layout(header, "some.cow");
  } catch (const DamagedCow& error) {
    return error.what();
  }
  return "accepted";
}

void store_big(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) {
    bytes[at + i] = static_cast<std::byte>(value >> (8 * (width - 1 - i)));
  }
}

void store_little(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

struct NumberFields {
  std::size_t size, sector_size;
  std::size_t alignment;  // 0: none
  std::size_t path, path_bytes;
};

NumberFields fields_of(HeaderFormat format) {
  switch (format) {
    case HeaderFormat::v1:
      return {268, 276, 0, 8, 256};
    case HeaderFormat::v2:
      return {4108, 4116, 0, 8, 4096};
    case HeaderFormat::v3:
      return {12, 20, 24, 32, 4096};
    case HeaderFormat::v3_wide:
      return {16, 24, 28, 36, 4096};
  }
  return {};
}

class HeaderRefusal : public testing::TestWithParam<tests::Shape> {
 protected:
  [[nodiscard]] Bytes sound() const { return serialize_header(tests::make_header(GetParam())); }

  [[nodiscard]] Bytes with(std::size_t at, std::uint64_t value, std::size_t width) const {
    auto bytes = sound();
    GetParam().format == HeaderFormat::v1 ? store_little(bytes, at, value, width)
                                          : store_big(bytes, at, value, width);
    return bytes;
  }
};

TEST_P(HeaderRefusal, TheSoundOneIsAccepted) { EXPECT_EQ(refusal(sound()), "accepted"); }

TEST_P(HeaderRefusal, CutShortAtEveryLength) {
  const auto bytes = sound();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    // A copy of just this size, so that a sanitizer sees a read past the end.
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    ASSERT_THAT(refusal(cut), StartsWith("some.cow: ")) << length << " bytes";
    if (length >= 4) {
      ASSERT_THAT(refusal(cut), HasSubstr("cut short")) << length << " bytes";
    }
  }
}

TEST_P(HeaderRefusal, BadMagic) {
  for (std::size_t i = 0; i < 4; ++i) {
    auto bytes = sound();
    bytes[i] ^= std::byte{0x01};
    EXPECT_THAT(refusal(bytes), HasSubstr("is not a COW file"));
  }
}

TEST_P(HeaderRefusal, UnknownVersion) {
  for (const std::uint32_t version : {0U, 4U, 5U, 0x01000000U, 0xffffffffU}) {
    auto bytes = sound();
    GetParam().magic_order == MagicOrder::big ? store_big(bytes, 4, version, 4)
                                              : store_little(bytes, 4, version, 4);
    EXPECT_THAT(refusal(bytes), HasSubstr("unknown COW version " + std::to_string(version)));
  }
}

TEST_P(HeaderRefusal, AVersionInTheOtherByteOrderThanTheMagic) {
  auto bytes = sound();
  std::reverse(bytes.begin() + 4, bytes.begin() + 8);
  EXPECT_THAT(refusal(bytes), HasSubstr("unknown COW version"));
}

TEST_P(HeaderRefusal, SectorSizeThatIsZeroTinyHugeOrNoPowerOfTwo) {
  const auto at = fields_of(GetParam().format).sector_size;
  for (const std::uint32_t value :
       {0U, 1U, 256U, 511U, 513U, 1000U, 0x20000U, 0x80000000U, 0xffffffffU}) {
    EXPECT_THAT(refusal(with(at, value, 4)), HasSubstr("sector size " + std::to_string(value)));
  }
}

TEST_P(HeaderRefusal, AlignmentThatIsZeroTinyHugeOrNoPowerOfTwo) {
  const auto at = fields_of(GetParam().format).alignment;
  if (at == 0) return;  // V1 and V2 have none
  for (const std::uint32_t value :
       {0U, 1U, 256U, 511U, 4097U, 6144U, 0x2000000U, 0x80000000U, 0xffffffffU}) {
    EXPECT_THAT(refusal(with(at, value, 4)), HasSubstr("alignment " + std::to_string(value)));
  }
}

TEST_P(HeaderRefusal, APathWithoutAnEnd) {
  const auto at = fields_of(GetParam().format);
  auto bytes = sound();
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at.path), at.path_bytes, std::byte{'/'});
  EXPECT_THAT(refusal(bytes), HasSubstr("does not end"));
  // What comes after the field must not serve as the end.
  bytes.resize(bytes.size() + 100);
  EXPECT_THAT(refusal(bytes), HasSubstr("does not end"));
}

TEST_P(HeaderRefusal, SizesThatOverflow) {
  const auto at = fields_of(GetParam().format).size;
  for (const std::uint64_t value :
       {(std::uint64_t{1} << 62) + 1, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
        std::numeric_limits<std::uint64_t>::max() - 511,
        std::numeric_limits<std::uint64_t>::max()}) {
    EXPECT_THAT(refusal(with(at, value, 8)), HasSubstr(std::to_string(value)));
  }
}

TEST_P(HeaderRefusal, RandomDamageIsRefusedOrHarmless) {
  SCOPED_TRACE(tests::seed_hint());
  tests::TestRandom random;
  for (int round = 0; round < 2000; ++round) {
    auto bytes = sound();
    const auto damaged = random.between(1, 8);
    for (std::uint64_t i = 0; i < damaged; ++i) {
      // Mostly where the numbers are.
      const auto last =
          random.one_in(2) ? bytes.size() - 1 : std::min<std::size_t>(40, bytes.size() - 1);
      bytes[random.between(0, last)] = static_cast<std::byte>(random.between(0, 255));
    }
    if (random.one_in(4)) bytes.resize(random.between(0, bytes.size()));
    (void)refusal(bytes);  // any other exception fails the test
  }
}

INSTANTIATE_TEST_SUITE_P(EveryLayout, HeaderRefusal,
                         testing::ValuesIn(tests::every_layout(1 << 20)),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST(HeaderRefusalOf, ABigEndianV1) {
  auto header = tests::make_header({.format = HeaderFormat::v1});
  header.magic_order = MagicOrder::big;
  EXPECT_THAT(refusal(serialize_header(header)), HasSubstr("big-endian"));
}

TEST(HeaderRefusalOf, AV3WithoutAPathWhichLooksLikeTheWideForm) {
  // Its alignment is where the wide form has the sector size, its format where that has the
  // alignment: zero.
  auto header = tests::make_header({.format = HeaderFormat::v3});
  header.backing_path.clear();
  auto bytes = serialize_header(header);
  bytes.resize(8192);
  EXPECT_THAT(refusal(bytes), HasSubstr("alignment 0"));
}

TEST(HeaderRefusalOf, NoBytesAtAll) { EXPECT_THAT(refusal({}), HasSubstr("is not a COW file")); }

TEST(HeaderRefusalOf, RandomBytes) {
  SCOPED_TRACE(tests::seed_hint());
  tests::TestRandom random;
  for (int round = 0; round < 2000; ++round) {
    auto bytes = random.bytes(random.between(0, 5000));
    // Half of them get as far as the fields.
    if (bytes.size() >= 8 && random.one_in(2)) {
      store_big(bytes, 0, 0x4f4f4f4d, 4);
      store_big(bytes, 4, random.between(1, 3), 4);
    }
    (void)refusal(bytes);
  }
}

}  // namespace
}  // namespace cowfs::core
