// Comparing images: merged with merged, raw with merged, raw with raw.

#include "cowcore/compare_images.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/create_cow.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using Bytes = std::vector<std::byte>;
using testing::HasSubstr;
using tests::Shape;

class Compare : public testing::Test {
 protected:
  Compare() : trace_(__FILE__, __LINE__, tests::seed_hint()) {}

  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
  }

  [[nodiscard]] fs::path other_cow() const {
    auto path = directory_ / "other";
    create_cow(path, pair_.backing, IfExists::refuse);
    return path;
  }

  static void write(const fs::path& cow, std::uint64_t offset, const Bytes& bytes) {
    auto opened = open_cow(cow, std::nullopt, Access::read_write, std::nullopt);
    CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
    image.write(offset, bytes);
    image.flush();
  }
  static void zero(const fs::path& cow, std::uint64_t offset, std::uint64_t length) {
    auto opened = open_cow(cow, std::nullopt, Access::read_write, std::nullopt);
    CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
    image.zero(offset, length);
    image.flush();
  }

  static Bytes merged(const fs::path& cow) {
    auto opened = open_cow(cow, std::nullopt, Access::read_only, std::nullopt);
    const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
    return tests::read_all(image);
  }

  static ComparedImage open(const fs::path& file, ImageKind kind = ImageKind::by_content) {
    return open_compared(file, std::nullopt, kind, std::nullopt);
  }

  static Comparison compare(const fs::path& a, const fs::path& b) {
    const auto opened_a = open(a);
    const auto opened_b = open(b);
    const auto there = compare_images(opened_a, opened_b);
    const auto back = compare_images(opened_b, opened_a);
    EXPECT_EQ(there.first_difference, back.first_difference) << "the order must not matter";
    return there;
  }
  static std::optional<std::uint64_t> first_difference(const fs::path& a, const fs::path& b) {
    return compare(a, b).first_difference;
  }

  tests::TemporaryDirectory directory_;
  tests::TestRandom random_;
  testing::ScopedTrace trace_;
  tests::PairOnDisk pair_;
};

class CompareEveryLayout : public Compare, public testing::WithParamInterface<Shape> {};

TEST_P(CompareEveryLayout, FindsTheFirstByteThatDiffersFromARawImage) {
  make(GetParam());
  const auto size = pair_.layout.merged_size;
  for (int i = 0; i < 10; ++i) {
    const auto offset = random_.between(0, size - 1);
    write(pair_.cow, offset, random_.bytes(std::min<std::uint64_t>(size - offset, 3000)));
  }
  const auto raw = directory_ / "raw";
  const auto content = merged(pair_.cow);
  tests::write_file(raw, content);
  EXPECT_EQ(first_difference(pair_.cow, raw), std::nullopt);
  for (int i = 0; i < 20; ++i) {
    auto changed = content;
    const auto at = i == 0 ? size - 1 : i == 1 ? 0 : random_.between(0, size - 1);
    changed[at] ^= std::byte{0x40};
    tests::write_file(raw, changed);
    ASSERT_EQ(first_difference(pair_.cow, raw), at);
  }
}

TEST_P(CompareEveryLayout, TwoCowsOfOneBackingAgreeWithTheirBytes) {
  make(GetParam());
  const auto other = other_cow();
  const auto size = pair_.layout.merged_size;
  for (int i = 0; i < 15; ++i) {
    const auto offset = random_.between(0, size - 1);
    const auto length = std::min<std::uint64_t>(size - offset, random_.between(1, 9000));
    const auto bytes = random_.bytes(length);
    // The same, the same by other means, or something else in one of them.
    if (random_.one_in(4)) {
      zero(pair_.cow, offset, length);
      write(other, offset, Bytes(length));
    } else {
      write(pair_.cow, offset, bytes);
      if (!random_.one_in(5)) write(other, offset, bytes);
    }
    const auto a = merged(pair_.cow);
    const auto b = merged(other);
    const auto [first, unused] = std::ranges::mismatch(a, b);
    const auto expected = first == a.end() ? std::optional<std::uint64_t>()
                                           : static_cast<std::uint64_t>(first - a.begin());
    ASSERT_EQ(first_difference(pair_.cow, other), expected);
  }
}

std::vector<Shape> shapes() {
  auto all = tests::every_layout(1 << 20);
  for (const std::uint64_t size : {1U, 511U, 512U, 513U, 32767U, 1000001U}) {
    all.push_back({.backing_size = size});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CompareEveryLayout, testing::ValuesIn(shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST_F(Compare, WhatBothShareIsNotRead) {
  make();
  const auto other = other_cow();
  EXPECT_EQ(compare(pair_.cow, other).bytes_read, 0U);
  write(pair_.cow, 8192, Bytes(4096, std::byte{1}));
  write(other, 8192, Bytes(4096, std::byte{1}));
  EXPECT_EQ(compare(pair_.cow, other).bytes_read, 2U * 4096);
  EXPECT_EQ(compare(pair_.cow, pair_.cow).bytes_read, 0U);
  EXPECT_EQ(compare(pair_.backing, pair_.backing).bytes_read, 0U);
  // A COW and its own backing, which may have a hole there.
  const auto beside_its_backing = compare(other, pair_.backing).bytes_read;
  EXPECT_GE(beside_its_backing, 4096U);
  EXPECT_LE(beside_its_backing, 2U * 4096);
}

TEST_F(Compare, AHugePairTakesTimeForWhatItHolds) {
  constexpr std::uint64_t huge = std::uint64_t{8} << 40;
  pair_.backing = directory_ / "backing";
  pair_.cow = directory_ / "cow";
  tests::make_file(pair_.backing)->resize(huge);
  tests::make_file(directory_ / "other backing")->resize(huge);
  create_cow(pair_.cow, pair_.backing, IfExists::refuse);
  create_cow(directory_ / "far", directory_ / "other backing", IfExists::refuse);
  const auto other = other_cow();
  for (const auto& cow : {pair_.cow, other, directory_ / "far"}) {
    write(cow, huge / 2, Bytes(4096, std::byte{1}));
    write(cow, huge - 512, Bytes(512, std::byte{1}));
  }
  EXPECT_EQ(first_difference(pair_.cow, other), std::nullopt);
  EXPECT_EQ(first_difference(pair_.cow, directory_ / "far"), std::nullopt);
  write(other, huge - 1, Bytes(1, std::byte{2}));
  EXPECT_EQ(first_difference(pair_.cow, other), huge - 1);
}

TEST_F(Compare, TheRestOfTheLongerOneIsComparedWithZeros) {
  const auto bytes = random_.bytes(10000);
  const auto a = directory_ / "a";
  const auto b = directory_ / "b";
  tests::write_file(a, bytes);
  auto longer = bytes;
  longer.resize(20000);
  tests::write_file(b, longer);
  EXPECT_EQ(first_difference(a, b), std::nullopt);
  EXPECT_EQ(open(b).size, 20000U);
  longer[19999] = std::byte{1};
  tests::write_file(b, longer);
  EXPECT_EQ(first_difference(a, b), 19999U);
  tests::write_file(a, Bytes());
  EXPECT_EQ(first_difference(a, b),
            static_cast<std::uint64_t>(
                std::ranges::find_if(longer, [](std::byte byte) { return byte != std::byte{}; }) -
                longer.begin()));
}

TEST_F(Compare, AnOddSizedBackingEqualsItsCowThoughThatIsLonger) {
  make({.backing_size = 1000001});
  EXPECT_EQ(open(pair_.cow).size, 1000448U);
  EXPECT_EQ(first_difference(pair_.cow, pair_.backing), std::nullopt);
  write(pair_.cow, 1000001, Bytes(1, std::byte{1}));
  EXPECT_EQ(first_difference(pair_.cow, pair_.backing), 1000001U);
}

TEST_F(Compare, ADamagedCowIsNeverTakenForARawImage) {
  make();
  PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular)
      ->write(20, Bytes(4, std::byte{0x55}));
  EXPECT_THROW((void)open(pair_.cow), DamagedCow);
  const auto raw = open(pair_.cow, ImageKind::raw);
  EXPECT_EQ(raw.size, fs::file_size(pair_.cow));
  EXPECT_EQ(raw.cow, nullptr);
}

TEST_F(Compare, AGivenBackingIsUsed) {
  make();
  fs::rename(pair_.backing, directory_ / "moved");
  EXPECT_THROW((void)open(pair_.cow), BackingMismatch);
  const auto a =
      open_compared(pair_.cow, directory_ / "moved", ImageKind::by_content, std::nullopt);
  const auto b = open(directory_ / "moved");
  EXPECT_EQ(compare_images(a, b).first_difference, std::nullopt);
}

TEST_F(Compare, WhatSomebodyWritesIsNotCompared) {
  make();
  const tests::ForkedProcess uml(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THROW((void)open(pair_.cow), Busy);
}

TEST_F(Compare, CanBeCancelled) {
  tests::write_file(directory_ / "a", Bytes(4 << 20, std::byte{1}));
  tests::write_file(directory_ / "b", Bytes(4 << 20, std::byte{1}));
  const auto a = open(directory_ / "a");
  const auto b = open(directory_ / "b");
  std::uint64_t last = 0;
  const auto progress = [&](const ProgressReport& report) {
    EXPECT_GE(report.done, last);
    EXPECT_EQ(report.total, 4U << 20);
    last = report.done;
    if (report.done >= 2 << 20) throw Cancelled("a");
  };
  EXPECT_THROW((void)compare_images(a, b, progress), Cancelled);
  EXPECT_LT(last, 4U << 20);
}

TEST_F(Compare, WhatCannotBeOpenedIsAnError) {
  EXPECT_EQ(tests::error_of([&] { (void)open(directory_ / "missing"); }), ENOENT);
  EXPECT_THAT(tests::message_of<Error>([&] { (void)open(directory_.path()); }),
              HasSubstr("is a directory"));
}

}  // namespace
}  // namespace cowfs::core
