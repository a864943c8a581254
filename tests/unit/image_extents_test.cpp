// Where the pieces of the image come from, and where its holes are.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t page = 4096;

/// "backing 0+4096, zero 4096+8192": neighbours of one source joined.
std::string map_of(const CowImage& image) {
  std::vector<Extent> joined;
  for (std::uint64_t at = 0; at < image.size();) {
    const auto extent = image.extent(at, image.size() - at);
    EXPECT_EQ(extent.offset, at);
    EXPECT_GT(extent.length, 0U);
    if (extent.length == 0) break;
    if (!joined.empty() && joined.back().source == extent.source) {
      joined.back().length += extent.length;
    } else {
      joined.push_back(extent);
    }
    at += extent.length;
  }
  std::string text;
  for (const auto& extent : joined) {
    const auto* source = extent.source == Source::cow       ? "cow "
                         : extent.source == Source::backing ? "backing "
                                                            : "zero ";
    text += (text.empty() ? "" : ", ") + std::string(source) + std::to_string(extent.offset) + "+" +
            std::to_string(extent.length);
  }
  return text;
}

class ImageExtents : public testing::TestWithParam<HeaderFormat> {
 protected:
  void make(std::uint64_t size) {
    header_ = tests::make_header(
        {.format = GetParam(), .backing_size = size, .magic_order = MagicOrder::little});
    layout_ = compute_layout(header_, "cow");
    tests::make_empty_cow(*cow_->open(), header_);
    backing_->open()->resize(size);
    image_ = std::make_unique<CowImage>(cow_->open(), backing_->open(), layout_, false);
  }

  void put_in_backing(std::uint64_t offset, std::uint64_t length) {
    backing_->open()->write(offset, Bytes(length, std::byte{1}));
  }

  // Holes as fine as sectors, so that the layouts whose data is at no page look the same.
  std::shared_ptr<tests::MemoryFile> cow_ = tests::MemoryFile::make("cow", 512);
  std::shared_ptr<tests::MemoryFile> backing_ = tests::MemoryFile::make("backing", 512);
  CowHeader header_;
  CowLayout layout_;
  std::unique_ptr<CowImage> image_;
};

TEST_P(ImageExtents, AnEmptyImageIsOneHole) {
  make(16 * page);
  EXPECT_EQ(map_of(*image_), "zero 0+65536");
  EXPECT_EQ(image_->next_data(0), std::nullopt);
  EXPECT_EQ(image_->next_hole(0), 0U);
  EXPECT_EQ(image_->next_hole(777), 777U);
}

TEST_P(ImageExtents, DataAndHolesOfBothFilesAreTold) {
  make(16 * page);
  put_in_backing(2 * page, 4 * page);
  image_->write(3 * page, Bytes(page, std::byte{2}));
  image_->zero(4 * page, page);
  image_->write(8 * page, Bytes(512, std::byte{2}));
  EXPECT_EQ(map_of(*image_),
            "zero 0+8192, backing 8192+4096, cow 12288+4096, zero 16384+4096, backing 20480+4096, "
            "zero 24576+8192, cow 32768+512, zero 33280+32256");
  EXPECT_EQ(image_->next_data(0), 2 * page);
  EXPECT_EQ(image_->next_hole(2 * page + 5), 4 * page);
  EXPECT_EQ(image_->next_data(4 * page + 5), 5 * page);
  EXPECT_EQ(image_->next_hole(5 * page), 6 * page);
  EXPECT_EQ(image_->next_data(6 * page), 8 * page);
  EXPECT_EQ(image_->next_hole(8 * page), 8 * page + 512);
  EXPECT_EQ(image_->next_data(9 * page), std::nullopt);
}

TEST_P(ImageExtents, DataUpToTheEndEndsInTheHoleThatTheEndIs) {
  make(4 * page);
  put_in_backing(2 * page, 2 * page);
  EXPECT_EQ(image_->next_hole(2 * page), 4 * page);
  EXPECT_EQ(image_->next_hole(4 * page - 1), 4 * page);
}

TEST_P(ImageExtents, TheLastOddSectorIsDataToItsEnd) {
  make(16 * page - 300);
  put_in_backing(15 * page, page - 300);
  EXPECT_EQ(map_of(*image_), "zero 0+61440, backing 61440+4096");
  image_->write(16 * page - 512, Bytes(512, std::byte{1}));
  EXPECT_EQ(map_of(*image_), "zero 0+61440, backing 61440+3584, cow 65024+512");
}

TEST_P(ImageExtents, AreCutAtTheLimit) {
  make(4 * page);
  put_in_backing(0, 4 * page);
  const auto extent = image_->extent(100, 50);
  EXPECT_EQ(extent.offset, 100U);
  EXPECT_EQ(extent.length, 50U);
  EXPECT_EQ(extent.source, Source::backing);
}

TEST_P(ImageExtents, ABitOverAHoleOrPastTheEndOfTheCowIsAHole) {
  make(16 * page);
  put_in_backing(0, 16 * page);
  tests::set_bit_on_disk(*cow_->open(), layout_, 8);
  tests::set_bit_on_disk(*cow_->open(), layout_, 127);
  cow_->open()->resize(layout_.data_offset + 20 * 512);
  image_ = std::make_unique<CowImage>(cow_->open(), backing_->open(), layout_, false);
  EXPECT_EQ(map_of(*image_), "backing 0+4096, zero 4096+512, backing 4608+60416, zero 65024+512");
}

INSTANTIATE_TEST_SUITE_P(In, ImageExtents,
                         testing::Values(HeaderFormat::v1, HeaderFormat::v2, HeaderFormat::v3,
                                         HeaderFormat::v3_wide),
                         [](const auto& test) {
                           return tests::shape_name({.format = test.param}).substr(0, 3) +
                                  (test.param == HeaderFormat::v3_wide ? "wide" : "");
                         });

/// Counts how often it is asked where its data and holes are.
class CountingStorage final : public tests::ForwardingStorage {
 public:
  CountingStorage(std::unique_ptr<Storage> inner, std::shared_ptr<std::atomic<int>> count)
      : ForwardingStorage(std::move(inner)), count_(std::move(count)) {}

  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override {
    ++*count_;
    return ForwardingStorage::next_data(offset);
  }
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override {
    ++*count_;
    return ForwardingStorage::next_hole(offset);
  }

 private:
  std::shared_ptr<std::atomic<int>> count_;
};

TEST(ImageExtentsOfHuge, AskAboutWhatWasTouchedNotAboutTheSize) {
  const tests::TemporaryDirectory directory;
  constexpr std::uint64_t huge = std::uint64_t{1} << 42;
  const auto header = tests::make_header({.backing_size = huge});
  tests::make_file(directory / "backing")->resize(huge);
  tests::make_empty_cow(*tests::make_file(directory / "cow"), header);
  const auto count = std::make_shared<std::atomic<int>>(0);
  CowImage image(
      std::make_unique<CountingStorage>(
          PosixStorage::open(directory / "cow", Access::read_write, FileKinds::regular), count),
      std::make_unique<CountingStorage>(
          PosixStorage::open(directory / "backing", Access::read_only, FileKinds::regular), count),
      compute_layout(header, "cow"), false);
  const auto far = huge - 4096;
  image.write(far, Bytes(512, std::byte{1}));
  image.flush();
  EXPECT_EQ(image.next_data(0), far);
  EXPECT_EQ(image.next_data(far + 4096 - 1), std::nullopt);
  EXPECT_LT(*count, 100) << "questions to the file system";
}

TEST(ImageExtentsWithFaults, AnErrorIsToldAndNotTakenForAHole) {
  tests::TestRandom random;
  const auto pair = tests::make_pair_in_memory({.backing_size = 65536}, random);
  const auto plan = std::make_shared<tests::FaultPlan>();
  const CowImage image(pair.cow->open(),
                       std::make_unique<tests::FaultyStorage>(pair.backing->open(), plan),
                       pair.layout, false);
  plan->add({.operation = tests::Operation::seek, .error = EIO, .lasting = true});
  EXPECT_THROW((void)image.next_data(0), std::system_error);
  EXPECT_THROW((void)image.next_hole(0), std::system_error);
  EXPECT_THROW((void)image.extent(0, 1), std::system_error);
}

}  // namespace
}  // namespace cowfs::core
