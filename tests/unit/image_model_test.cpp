// The merged image against a plain array of bytes, under long random sequences of everything that
// can be done to it.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using tests::Shape;
using Bytes = std::vector<std::byte>;

constexpr std::size_t longest_range = 300000;

/// An image, its model, and one random step after the other.
class ModelRun {
 public:
  using Open = std::function<std::unique_ptr<CowImage>()>;

  ModelRun(Open open, Bytes model, tests::TestRandom& random)
      : open_(std::move(open)), image_(open_()), model_(std::move(model)), random_(random) {}

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      ASSERT_NO_FATAL_FAILURE(do_one());
    }
    ASSERT_NO_FATAL_FAILURE(reopen());
  }

 private:
  struct Range {
    std::uint64_t offset;
    std::size_t length;
  };

  void do_one() {
    const auto choice = random_.between(0, 99);
    if (choice < 22) {
      read(random_range());
    } else if (choice < 40) {
      view(random_range());
    } else if (choice < 72) {
      write(random_range());
    } else if (choice < 84) {
      zero(random_range());
    } else if (choice < 87) {
      const auto range = random_range();
      image_->reserve(range.offset, range.length);
    } else if (choice < 91) {
      image_->flush();
      ASSERT_FALSE(image_->has_unflushed());
    } else if (choice < 99) {
      seek();
    } else if (random_.one_in(4)) {
      reopen();
    }
  }

  /// A number around a multiple of one of the units that matter, or anything.
  std::uint64_t random_edge(std::uint64_t limit) {
    static constexpr std::array<std::uint64_t, 6> units{1, 512, 4096, 65536, 1 << 20, 16 << 20};
    const auto unit = units.at(random_.between(0, units.size() - 1));
    const auto edge = random_.between(0, limit / unit) * unit;
    const auto shift = random_.one_in(2) ? 0 : random_.between(0, 1024);
    return std::min(limit, random_.one_in(2) ? edge + shift : edge - std::min(edge, shift));
  }

  Range random_range() {
    const auto offset = random_edge(image_->size());
    const auto rest = std::min<std::uint64_t>(longest_range, image_->size() - offset);
    const auto limit = random_.one_in(3) ? rest : std::min<std::uint64_t>(rest, 6000);
    return {offset, random_edge(limit)};
  }

  [[nodiscard]] Bytes expected(Range range) const {
    const auto begin = model_.begin() + static_cast<std::ptrdiff_t>(range.offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(range.length)};
  }

  [[nodiscard]] std::string name(Range range) const {
    return std::to_string(range.offset) + "+" + std::to_string(range.length);
  }

  void read(Range range) {
    const auto found = tests::read_image(*image_, range.offset, range.length);
    ASSERT_EQ(tests::difference(found, expected(range), range.offset), "the same")
        << "read " << name(range);
  }

  void view(Range range) {
    const auto found = viewer_.read(*image_, range.offset, range.length);
    ASSERT_EQ(tests::difference(found, expected(range), range.offset), "the same")
        << "view " << name(range);
  }

  void write(Range range) {
    const auto bytes = random_.bytes(range.length);
    image_->write(range.offset, bytes);
    std::ranges::copy(bytes, model_.begin() + static_cast<std::ptrdiff_t>(range.offset));
  }

  void zero(Range range) {
    image_->zero(range.offset, range.length);
    std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length,
                std::byte{});
  }

  [[nodiscard]] bool is_zero(std::uint64_t begin, std::uint64_t end) const {
    // A range whose first byte is zero and each of whose bytes equals the one before it.
    return begin == end || (model_[begin] == std::byte{} &&
                            std::memcmp(&model_[begin], &model_[begin] + 1, end - begin - 1) == 0);
  }

  void seek() {
    const auto offset = random_edge(image_->size() - 1);
    const auto data = image_->next_data(offset);
    ASSERT_GE(data.value_or(offset), offset);
    ASSERT_LT(data.value_or(offset), image_->size());
    ASSERT_TRUE(is_zero(offset, data.value_or(image_->size()))) << "from " << offset;
    const auto hole = image_->next_hole(offset);
    ASSERT_GE(hole, offset);
    ASSERT_LE(hole, image_->size());
    ASSERT_TRUE(data == offset || hole == offset) << "neither data nor a hole at " << offset;
    if (hole < image_->size()) {
      ASSERT_NE(image_->next_data(hole), hole);
      ASSERT_TRUE(is_zero(hole, image_->next_data(hole).value_or(image_->size())));
    }
    const auto limit = random_.between(1, image_->size() - offset);
    const auto extent = image_->extent(offset, limit);
    ASSERT_EQ(extent.offset, offset);
    ASSERT_GE(extent.length, 1U);
    ASSERT_LE(extent.length, limit);
    ASSERT_EQ(extent.source == Source::zero, hole == offset);
    if (extent.source == Source::zero) {
      ASSERT_TRUE(is_zero(offset, offset + extent.length));
    }
  }

  void reopen() {
    image_->flush();
    image_.reset();
    image_ = open_();
    ASSERT_EQ(tests::difference(tests::read_all(*image_), model_), "the same") << "after reopening";
  }

  Open open_;
  std::unique_ptr<CowImage> image_;
  Bytes model_;
  tests::TestRandom& random_;
  tests::ViewReader viewer_{longest_range};
};

class ImageModel : public testing::TestWithParam<Shape> {
 protected:
  testing::ScopedTrace trace_{__FILE__, __LINE__, tests::seed_hint()};
  tests::TestRandom random_;
};

void run_in_memory(const Shape& shape, std::uint64_t block_bytes, tests::TestRandom& random,
                   int steps) {
  const auto pair = tests::make_pair_in_memory(shape, random, block_bytes);
  const auto backing_before = pair.backing->content();
  ModelRun([&] { return pair.open(); }, pair.content, random).run(steps);
  EXPECT_TRUE(pair.backing->content() == backing_before) << "the backing was written";
  // Neither the header nor what lies between it and the data has changed, save for the bitmap.
  auto now = pair.cow->content();
  now.resize(pair.layout.header_length);
  EXPECT_TRUE(now == serialize_header(pair.header)) << "the header was written";
}

TEST_P(ImageModel, InMemory) { run_in_memory(GetParam(), 4096, random_, 1500); }

// Holes of one sector: the finest that there can be.
TEST_P(ImageModel, InMemoryWithHolesOfASector) { run_in_memory(GetParam(), 512, random_, 1000); }

TEST_P(ImageModel, InFiles) {
  const tests::TemporaryDirectory directory;
  const auto pair = tests::make_pair_on_disk(directory.path(), GetParam(), random_);
  const auto open = [&] {
    return std::make_unique<CowImage>(
        PosixStorage::open(pair.cow, Access::read_write, FileKinds::regular),
        PosixStorage::open(pair.backing, Access::read_only, FileKinds::regular), pair.layout,
        false);
  };
  ModelRun(open, pair.content, random_).run(600);
}

std::vector<Shape> model_shapes() {
  auto shapes = tests::every_layout(std::uint64_t{1} << 20);
  // V1 and V2 need a multiple of 8 sectors; what counts is the number of sectors, not of bytes.
  for (auto& shape : tests::every_layout((std::uint64_t{1} << 20) + 4096 - 333)) {
    shapes.push_back(shape);
  }
  for (const std::uint64_t size : {1U, 511U, 513U, 4095U, 4097U, 70000U, 3000001U}) {
    shapes.push_back({.backing_size = size});
  }
  // More than one chunk of the bitmap.
  shapes.push_back({.backing_size = (std::uint64_t{33} << 20) + 777});
  return shapes;
}

INSTANTIATE_TEST_SUITE_P(Shapes, ImageModel, testing::ValuesIn(model_shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST(Image, OfAnEmptyBackingIsEmpty) {
  tests::TestRandom random;
  const auto image = tests::make_pair_in_memory({.backing_size = 0}, random).open();
  EXPECT_EQ(image->size(), 0U);
  EXPECT_EQ(tests::read_all(*image), Bytes());
  image->write(0, {});
  image->zero(0, 0);
  image->flush();
  EXPECT_EQ(image->next_data(0), std::nullopt);
  EXPECT_EQ(image->next_hole(0), 0U);
  EXPECT_THROW(image->write(0, Bytes(1)), std::system_error);
}

TEST(Image, TheTailPastAnOddSizeIsZeroAndCanBeWritten) {
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 10241}, random);
  auto image = pair.open();
  ASSERT_EQ(image->size(), 10752U);
  EXPECT_EQ(tests::read_image(*image, 10241, 511), Bytes(511));
  image->write(10300, Bytes(10, std::byte{7}));
  image->flush();
  image = pair.open();
  auto expected = pair.content;
  std::fill_n(expected.begin() + 10300, 10, std::byte{7});
  EXPECT_EQ(tests::difference(tests::read_all(*image), expected), "the same");
}

TEST(Image, WhatFollowsTheBackingInItsFileIsNotShown) {
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 1000}, random);
  // As a block device, or a file that somebody has appended to since it was looked at.
  pair.backing->open()->write(1000, Bytes(5000, std::byte{0xff}));
  const auto image = pair.open();
  EXPECT_EQ(tests::difference(tests::read_all(*image), pair.content), "the same");
  tests::ViewReader viewer;
  EXPECT_EQ(tests::difference(viewer.read(*image, 0, 1024), pair.content), "the same");
  image->write(700, Bytes(1));
  EXPECT_EQ(tests::read_image(*image, 1000, 24), Bytes(24));
}

TEST(Image, ASetBitPastTheEndOfTheCowFileReadsAsZeros) {
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 65536}, random);
  const auto cow = pair.cow->open();
  cow->resize(pair.layout.data_offset + 512 * 3 + 100);
  cow->write(pair.layout.data_offset + 512 * 3, Bytes(100, std::byte{1}));
  tests::set_bit_on_disk(*cow, pair.layout, 3);
  tests::set_bit_on_disk(*cow, pair.layout, 50);
  const auto image = pair.open();
  auto expected = Bytes(100, std::byte{1});
  expected.resize(512);
  tests::ViewReader viewer;
  EXPECT_EQ(tests::read_image(*image, 512 * 3, 512), expected);
  EXPECT_EQ(viewer.read(*image, 512 * 3, 512), expected);
  EXPECT_EQ(tests::read_image(*image, 512 * 50, 512), Bytes(512));
  EXPECT_EQ(viewer.read(*image, 512 * 50, 512), Bytes(512));
  // The file grows: the view must notice.
  image->write(512 * 50 + 10, Bytes(5, std::byte{9}));
  auto grown = Bytes(512);
  std::fill_n(grown.begin() + 10, 5, std::byte{9});
  EXPECT_EQ(viewer.read(*image, 512 * 50, 512), grown);
}

TEST(Image, RangesThatReachOutsideAreRefused) {
  tests::TestRandom random;
  const auto image = tests::make_pair_in_memory({.backing_size = 10000}, random).open();
  const auto size = image->size();
  std::vector<std::byte> bytes(513);
  ReadView view(4096);
  const auto refused = [](auto&& call) { return tests::error_of(call) == EINVAL; };
  for (const std::uint64_t offset :
       {size, size - 512, size + 1, ~std::uint64_t{0}, ~std::uint64_t{0} - 100}) {
    EXPECT_TRUE(refused([&] { image->read(offset, bytes); })) << offset;
    EXPECT_TRUE(refused([&] { image->view(offset, 513, view); })) << offset;
    EXPECT_TRUE(refused([&] { image->write(offset, bytes); })) << offset;
    EXPECT_TRUE(refused([&] { image->zero(offset, 513); })) << offset;
    EXPECT_TRUE(refused([&] { image->reserve(offset, 513); })) << offset;
    EXPECT_TRUE(refused([&] { (void)image->extent(offset, 513); })) << offset;
  }
  EXPECT_TRUE(refused([&] { image->zero(1, ~std::uint64_t{0}); }));
  EXPECT_TRUE(refused([&] { image->view(0, 4097, view); })) << "longer than the view";
  EXPECT_FALSE(refused([&] { image->write(size - 513, bytes); }));
}

}  // namespace
}  // namespace cowfs::core
