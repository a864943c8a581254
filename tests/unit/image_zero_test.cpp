// Discard and write-zeroes: what they make of the image, and what they leave alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

using tests::error_of;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t size = 1 << 20;
constexpr std::uint64_t data_begin = 256 << 10;  // the backing has data here
constexpr std::uint64_t data_end = 512 << 10;

class ImageZero : public testing::Test {
 protected:
  ImageZero() {
    tests::make_empty_cow(*cow_->open(), header_);
    backing_->open()->resize(size);
    backing_->open()->write(data_begin, Bytes(data_end - data_begin, std::byte{1}));
    image_ =
        std::make_unique<CowImage>(std::make_unique<tests::RecordingStorage>(cow_->open(), log_),
                                   backing_->open(), layout_, false);
    image_->flush();  // of what a process before this one may have written
    log_->clear();
  }

  [[nodiscard]] std::vector<tests::LoggedOperation> operations(tests::Operation kind) const {
    auto found = log_->operations();
    std::erase_if(found, [&](const auto& operation) { return operation.operation != kind; });
    return found;
  }

  void expect_zeros(std::uint64_t offset, std::uint64_t length) const {
    EXPECT_EQ(tests::difference(tests::read_image(*image_, offset, length), Bytes(length), offset),
              "the same");
  }

  std::shared_ptr<tests::MemoryFile> cow_ = tests::MemoryFile::make("cow");
  std::shared_ptr<tests::MemoryFile> backing_ = tests::MemoryFile::make("backing");
  CowHeader header_ = tests::make_header({.backing_size = size});
  CowLayout layout_ = compute_layout(header_, "cow");
  std::shared_ptr<tests::OperationLog> log_ = std::make_shared<tests::OperationLog>();
  std::unique_ptr<CowImage> image_;
};

TEST_F(ImageZero, AHoleOfTheBackingIsLeftAlone) {
  image_->zero(0, data_begin);
  image_->zero(data_end, size - data_end);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_TRUE(log_->operations().empty()) << tests::describe(log_->operations());
  EXPECT_FALSE(image_->has_unflushed());
}

TEST_F(ImageZero, PartsOfSectorsInAHoleOfTheBackingAreLeftAlone) {
  image_->zero(100, 50);
  image_->zero(1000, 5000);
  EXPECT_EQ(image_->sectors().count(), 0U);
  EXPECT_TRUE(log_->operations().empty()) << tests::describe(log_->operations());
}

TEST_F(ImageZero, PartsOfSectorsThatAreHolesInTheCowStayHoles) {
  image_->zero(data_begin, 65536);
  log_->clear();
  image_->zero(data_begin + 100, 50);
  EXPECT_TRUE(operations(tests::Operation::write).empty());
  expect_zeros(data_begin, 65536);
}

TEST_F(ImageZero, DataOfTheBackingIsCoveredByAHole) {
  image_->zero(data_begin + 4096, 8192);
  expect_zeros(data_begin + 4096, 8192);
  EXPECT_EQ(tests::read_image(*image_, data_begin, 4096), Bytes(4096, std::byte{1}));
  EXPECT_EQ(tests::read_image(*image_, data_begin + 12288, 512), Bytes(512, std::byte{1}));
  EXPECT_EQ(image_->sectors().count(), 16U);
  EXPECT_TRUE(operations(tests::Operation::write).empty()) << "a hole costs no data";
}

TEST_F(ImageZero, OnlyThePartsWithDataGetBits) {
  image_->write(0, Bytes(512, std::byte{2}));
  image_->write(900 << 10, Bytes(1024, std::byte{2}));
  image_->zero(0, size);
  expect_zeros(0, size);
  EXPECT_EQ(image_->sectors().count(), (data_end - data_begin) / 512 + 1 + 2);
}

TEST_F(ImageZero, EndsThatCutSectorsKeepTheRest) {
  image_->zero(data_begin + 100, 2000);
  EXPECT_EQ(tests::read_image(*image_, data_begin, 100), Bytes(100, std::byte{1}));
  expect_zeros(data_begin + 100, 2000);
  EXPECT_EQ(tests::read_image(*image_, data_begin + 2100, 1000), Bytes(1000, std::byte{1}));
}

TEST_F(ImageZero, StaysAfterReopening) {
  image_->write(data_begin, Bytes(4096, std::byte{3}));
  image_->zero(data_begin + 512, 100000);
  image_->flush();
  image_ = std::make_unique<CowImage>(cow_->open(), backing_->open(), layout_, true);
  expect_zeros(data_begin + 512, 100000);
  EXPECT_EQ(tests::read_image(*image_, data_begin, 512), Bytes(512, std::byte{3}));
}

TEST_F(ImageZero, LeftoverDataUnderAClearBitDoesNotShine) {
  // A crash has left data in a sector that no bit points at.
  cow_->open()->write(layout_.data_offset + data_begin, Bytes(512, std::byte{9}));
  image_->zero(data_begin, 512);
  expect_zeros(data_begin, 512);
}

TEST_F(ImageZero, CanBeWrittenAgain) {
  image_->zero(data_begin, 4096);
  image_->write(data_begin + 700, Bytes(10, std::byte{5}));
  auto expected = Bytes(4096);
  std::fill_n(expected.begin() + 700, 10, std::byte{5});
  EXPECT_EQ(tests::read_image(*image_, data_begin, 4096), expected);
}

TEST(ImageZeroOnDisk, GivesBackTheSpace) {
  const tests::TemporaryDirectory directory;
  tests::TestRandom random;
  const auto pair = tests::make_pair_on_disk(directory.path(), {.backing_size = 4 << 20}, random);
  CowImage image(PosixStorage::open(pair.cow, Access::read_write, FileKinds::regular),
                 PosixStorage::open(pair.backing, Access::read_only, FileKinds::regular),
                 pair.layout, false);
  image.write(0, random.bytes(4 << 20));
  image.flush();
  const auto full = image.cow().status().allocated;
  ASSERT_GE(full, 4U << 20);
  image.zero(0, 4 << 20);
  image.flush();
  EXPECT_LE(image.cow().status().allocated, full - (4U << 20) + 8192);
  EXPECT_EQ(image.next_data(0), std::nullopt);
  EXPECT_EQ(tests::read_all(image), Bytes(4 << 20));
}

// A guest that formats its disk discards all of it first.
TEST(ImageZeroOnDisk, OfAHugeSparseImageCostsOnlyWhatHasData) {
  const tests::TemporaryDirectory directory;
  const auto backing = tests::make_file(directory / "backing");
  constexpr std::uint64_t huge = std::uint64_t{1} << 40;
  backing->resize(huge);
  backing->write(huge / 2 + 12345, Bytes(100, std::byte{1}));
  const auto header = tests::make_header({.backing_size = huge});
  tests::make_empty_cow(*tests::make_file(directory / "cow"), header);
  CowImage image(PosixStorage::open(directory / "cow", Access::read_write, FileKinds::regular),
                 PosixStorage::open(directory / "backing", Access::read_only, FileKinds::regular),
                 compute_layout(header, "cow"), false);
  image.zero(0, huge);
  EXPECT_EQ(image.sectors().count(), 8U) << "one block of the file system has data";
  EXPECT_EQ(image.next_data(0), std::nullopt);
}

TEST(ImageZeroWithoutBits, IsRefusedWhereASectorHasNoBit) {
  tests::TestRandom random;
  // 2051 sectors; the last three have no bit.
  const auto pair =
      tests::make_pair_in_memory({.format = HeaderFormat::v2, .backing_size = 1050112}, random);
  pair.backing->open()->write(0, Bytes(1050112, std::byte{1}));
  const auto image = pair.open();
  for (const std::uint64_t offset : {2047U * 512U, 2048U * 512U, 2050U * 512U + 100U}) {
    const auto length = image->size() - offset;
    EXPECT_EQ(error_of([&] { image->zero(offset, length); }), EROFS) << offset;
    EXPECT_EQ(error_of([&] { image->write(offset, Bytes(length)); }), EROFS) << offset;
  }
  EXPECT_EQ(error_of([&] { image->zero(0, 2048 * 512); }), 0);
  EXPECT_EQ(tests::read_image(*image, 2048 * 512, 3 * 512), Bytes(3 * 512, std::byte{1}));
}

}  // namespace
}  // namespace cowfs::core
