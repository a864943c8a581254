// Views: the pieces of memory that answer a read.

#include <gtest/gtest.h>
#include <limits.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/mapped_windows.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using Bytes = std::vector<std::byte>;

class ImageView : public testing::Test {
 protected:
  std::unique_ptr<CowImage> open(const tests::PairOnDisk& pair) {
    return std::make_unique<CowImage>(
        std::make_unique<tests::FaultyStorage>(
            PosixStorage::open(pair.cow, Access::read_write, FileKinds::regular), plan_),
        std::make_unique<tests::FaultyStorage>(
            PosixStorage::open(pair.backing, Access::read_only, FileKinds::regular), plan_),
        pair.layout, false);
  }

  tests::TemporaryDirectory directory_;
  tests::TestRandom random_;
  std::shared_ptr<tests::FaultPlan> plan_ = std::make_shared<tests::FaultPlan>();
  tests::ViewReader viewer_;
};

TEST_F(ImageView, LongPiecesAreNotCopied) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  image->write(65536, random_.bytes(65536));
  // Neither file is read: all comes from their mapped pages.
  (void)image->sectors().count();
  plan_->add({.operation = tests::Operation::read, .error = EIO, .lasting = true});
  ReadView view(1 << 20);
  image->view(0, 1 << 20, view);
  EXPECT_EQ(view.pieces().size(), 3U);
  EXPECT_EQ(plan_->failures(), 0U);
  view.clear();
}

TEST_F(ImageView, ShortPiecesAreCopiedFromTheMappedFiles) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  auto expected = pair.content;
  for (std::size_t at = 1024; at < expected.size(); at += 2048) {
    const auto bytes = random_.bytes(512);
    image->write(at, bytes);
    std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(at));
  }
  plan_->add({.operation = tests::Operation::read, .error = EIO, .lasting = true});
  EXPECT_EQ(tests::difference(viewer_.read(*image, 0, 1 << 20), expected), "the same");
  EXPECT_EQ(plan_->failures(), 0U);
}

TEST_F(ImageView, ShortPiecesOfWhatIsGoneAreAnError) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  for (std::size_t at = 65536; at < 131072; at += 1024) image->write(at, Bytes(512));
  (void)viewer_.read(*image, 65536, 65536);
  PosixStorage::open(pair.backing, Access::read_write, FileKinds::regular)->resize(8192);
  EXPECT_EQ(tests::error_of([&] { (void)viewer_.read(*image, 65536, 4096); }), EIO);
}

TEST_F(ImageView, AFileThatCannotBeMappedIsReadInstead) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  auto expected = pair.content;
  const auto bytes = random_.bytes(100000);
  image->write(50000, bytes);
  std::ranges::copy(bytes, expected.begin() + 50000);
  plan_->add({.operation = tests::Operation::map, .lasting = true});
  EXPECT_EQ(tests::difference(viewer_.read(*image, 0, 1 << 20), expected), "the same");
  EXPECT_GT(plan_->failures(), 0U);
  plan_->heal();
  EXPECT_EQ(tests::difference(viewer_.read(*image, 0, 1 << 20), expected), "the same");
}

TEST_F(ImageView, TheWorstPatternStillFitsIntoOneSystemCall) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  for (const std::uint64_t period : {2U, 3U, 9U, 10U, 16U, 17U}) {
    const auto image = open(pair);
    for (SectorNumber i = 0; i < image->size() / sector_bytes; i += period) {
      image->write(i * sector_bytes, Bytes(512));
    }
    for (const std::uint64_t offset : {0U, 1U, 511U, 3584U, 4095U}) {
      const auto length = (std::size_t{1} << 20) - offset;
      const auto found = viewer_.read(*image, offset, length);
      EXPECT_EQ(tests::difference(found, tests::read_image(*image, offset, length)), "the same");
      EXPECT_LE(viewer_.pieces(), std::size_t{IOV_MAX});
    }
  }
}

TEST_F(ImageView, CrossesTheEdgesOfMappedWindows) {
  const tests::Shape shape{.backing_size = MappedWindows::window_bytes * 2 + 5000};
  const auto pair = tests::make_pair_on_disk(directory_.path(), shape, random_);
  const auto image = open(pair);
  auto expected = pair.content;
  // In the COW the edges are elsewhere: its data begins after its bitmap.
  const auto edge =
      MappedWindows::window_bytes - pair.layout.data_offset % MappedWindows::window_bytes;
  const auto bytes = random_.bytes(20000);
  image->write(edge - 10000, bytes);
  std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(edge - 10000));
  for (const auto at : {edge, MappedWindows::window_bytes, 2 * MappedWindows::window_bytes}) {
    const auto begin = at - 70001;
    const auto length = std::min<std::uint64_t>(150003, image->size() - begin);
    const Bytes piece(expected.begin() + static_cast<std::ptrdiff_t>(begin),
                      expected.begin() + static_cast<std::ptrdiff_t>(begin + length));
    EXPECT_EQ(tests::difference(viewer_.read(*image, begin, length), piece, begin), "the same");
  }
}

TEST_F(ImageView, ShowsWhatIsWrittenAfterTheFileWasMapped) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  image->write(0, Bytes(8192, std::byte{1}));
  EXPECT_EQ(viewer_.read(*image, 0, 8192), Bytes(8192, std::byte{1}));
  image->write(100, Bytes(5000, std::byte{2}));
  EXPECT_EQ(viewer_.read(*image, 100, 5000), Bytes(5000, std::byte{2}));
  image->zero(0, 8192);
  EXPECT_EQ(viewer_.read(*image, 0, 8192), Bytes(8192));
}

TEST_F(ImageView, ABackingThatWasCutShortIsAnErrorAndNoSignal) {
  const auto pair = tests::make_pair_on_disk(directory_.path(), {}, random_);
  const auto image = open(pair);
  (void)viewer_.read(*image, 0, 1 << 20);
  PosixStorage::open(pair.backing, Access::read_write, FileKinds::regular)->resize(8192);
  EXPECT_EQ(tests::error_of([&] { (void)viewer_.read(*image, 65536, 65536); }), EFAULT);
  EXPECT_EQ(viewer_.read(*image, 0, 8192),
            Bytes(pair.content.begin(), pair.content.begin() + 8192));
  // What is copied: a short read is no end of the image.
  EXPECT_EQ(tests::error_of([&] { (void)tests::read_image(*image, 65536, 65536); }), EIO);
  // A partial write must not fill the rest of its sector with zeros.
  EXPECT_THROW(image->write(65536 + 10, Bytes(10)), std::system_error);
  EXPECT_EQ(image->sectors().count(), 0U);
  image->write(65536, Bytes(512, std::byte{3}));
  EXPECT_EQ(viewer_.read(*image, 65536, 512), Bytes(512, std::byte{3}));
}

class MappedWindowsTest : public testing::Test {
 protected:
  MappedWindowsTest() { file_->resize(total); }

  static constexpr auto window = MappedWindows::window_bytes;
  static constexpr auto total = window * MappedWindows::sets * (MappedWindows::ways + 2);

  /// The window number i of one set.
  MappedWindows::Pin acquire(std::size_t i) {
    return windows_.acquire(i * MappedWindows::sets * window);
  }
  std::vector<MappedWindows::Pin> fill_a_set() {
    std::vector<MappedWindows::Pin> pins;
    for (std::size_t i = 0; i < MappedWindows::ways; ++i) {
      pins.push_back(acquire(i));
      EXPECT_TRUE(pins.back());
    }
    return pins;
  }

  std::unique_ptr<Storage> file_ = tests::open_mappable_memory("file");
  MappedWindows windows_{*file_};
};

TEST_F(MappedWindowsTest, OneWindowServesAllItsOffsets) {
  const auto first = windows_.acquire(10);
  const auto second = windows_.acquire(window - 1);
  EXPECT_EQ(first.from(0).first, second.from(0).first);
  EXPECT_EQ(first.from(window - 1).second, 1U);
}

TEST_F(MappedWindowsTest, GivesNothingWhileAllThatCouldMakeRoomIsPinned) {
  const auto pins = fill_a_set();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(acquire(MappedWindows::ways));
  EXPECT_TRUE(acquire(0)) << "one that is mapped can be had again";
  EXPECT_TRUE(windows_.acquire(window)) << "other sets are not concerned";
}

TEST_F(MappedWindowsTest, MakesRoomForAWindowThatIsWantedAgain) {
  { const auto pins = fill_a_set(); }
  constexpr auto one = MappedWindows::ways;
  constexpr auto other = one + 1;
  EXPECT_FALSE(acquire(one));
  EXPECT_FALSE(acquire(other));
  EXPECT_FALSE(acquire(one)) << "another one came between";
  EXPECT_TRUE(acquire(one));
  EXPECT_TRUE(acquire(one));
}

TEST_F(MappedWindowsTest, TheWindowThatWasNotUsedForLongestMakesRoom) {
  { const auto pins = fill_a_set(); }
  const auto* first = acquire(0).from(0).first;
  EXPECT_FALSE(acquire(MappedWindows::ways));
  EXPECT_TRUE(acquire(MappedWindows::ways));
  EXPECT_EQ(acquire(0).from(0).first, first) << "the one used last was unmapped";
}

}  // namespace
}  // namespace cowfs::core
