// What `cowfs info` is made of.

#include "cowcore/cow_info.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/filesystem.hpp>
#include <memory>
#include <string>

#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using testing::HasSubstr;
using tests::Shape;

class Info : public testing::Test {
 protected:
  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
  }

  [[nodiscard]] CowInfo inspect() const { return inspect_cow(pair_.cow); }

  void set_bits(std::initializer_list<SectorNumber> sectors) const {
    const auto cow = PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular);
    for (const auto sector : sectors) tests::set_bit_on_disk(*cow, pair_.layout, sector);
  }

  tests::TemporaryDirectory directory_;
  tests::TestRandom random_;
  tests::PairOnDisk pair_;
};

class InfoOfEveryLayout : public Info, public testing::WithParamInterface<Shape> {};

TEST_P(InfoOfEveryLayout, TellsHeaderLayoutAndCounts) {
  make(GetParam());
  set_bits({0, 1, 7, 100, 2047});
  const auto info = inspect();
  EXPECT_EQ(info.header, pair_.header);
  EXPECT_EQ(info.layout, pair_.layout);
  EXPECT_EQ(info.backing, pair_.backing);
  EXPECT_EQ(info.backing_state, BackingState::ok);
  EXPECT_EQ(info.present_size, GetParam().backing_size);
  EXPECT_EQ(info.present_mtime, tests::test_mtime);
  EXPECT_EQ(info.sectors_in_cow, 5U);
  EXPECT_EQ(info.file_size, fs::file_size(pair_.cow));
  EXPECT_GT(info.allocated, 0U);
  EXPECT_LT(info.allocated, info.file_size);
  EXPECT_FALSE(info.in_use);
}

INSTANTIATE_TEST_SUITE_P(Layouts, InfoOfEveryLayout,
                         testing::ValuesIn(tests::every_layout(1 << 20)),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST_F(Info, AMissingBacking) {
  make();
  fs::remove(pair_.backing);
  const auto info = inspect();
  EXPECT_EQ(info.backing_state, BackingState::missing);
  EXPECT_EQ(info.present_size, std::nullopt);
  EXPECT_EQ(info.present_mtime, std::nullopt);
  EXPECT_EQ(info.backing, pair_.backing);
}

TEST_F(Info, ABackingOfAnotherSizeWhateverItsTime) {
  make();
  fs::resize_file(pair_.backing, 12345);
  const auto info = inspect();
  EXPECT_EQ(info.backing_state, BackingState::size_mismatch);
  EXPECT_EQ(info.present_size, 12345U);
}

TEST_F(Info, ABackingThatWasChangedSince) {
  make();
  tests::set_mtime(pair_.backing, 1234567890);
  const auto info = inspect();
  EXPECT_EQ(info.backing_state, BackingState::mtime_mismatch);
  EXPECT_EQ(info.present_mtime, 1234567890U);
}

TEST_F(Info, ABackingThatIsNoFileCountsAsMissing) {
  make();
  fs::remove(pair_.backing);
  fs::create_directory(pair_.backing);
  EXPECT_EQ(inspect().backing_state, BackingState::missing);
}

TEST_F(Info, NamesTheStatesForScripts) {
  EXPECT_STREQ(state_name(BackingState::ok), "ok");
  EXPECT_STREQ(state_name(BackingState::missing), "missing");
  EXPECT_STREQ(state_name(BackingState::size_mismatch), "size-mismatch");
  EXPECT_STREQ(state_name(BackingState::mtime_mismatch), "mtime-mismatch");
}

TEST_F(Info, ARelativePathIsShownAsItIsStoredAndAsItIsResolved) {
  make();
  auto header = pair_.header;
  header.backing_path = "backing";
  rewrite_header(*PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular), header);
  const tests::WorkingDirectory here(directory_.path());
  const auto info = inspect();
  EXPECT_EQ(info.header.backing_path, "backing");
  EXPECT_EQ(info.backing, pair_.backing);
  EXPECT_EQ(info.backing_state, BackingState::ok);
}

TEST_F(Info, ACowInUseIsInspectedAllTheSameAndItsUserNamed) {
  make();
  const tests::ForkedProcess uml(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  const auto info = inspect();
  EXPECT_TRUE(info.in_use);
  EXPECT_THAT(info.user, HasSubstr("(pid " + std::to_string(uml.pid()) + ")"));
}

TEST_F(Info, TheSectorsThatAreOnDiskAreCountedWhileAnImageIsOpen) {
  make();
  auto opened = open_cow(pair_.cow, std::nullopt, Access::read_write, std::nullopt);
  CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
  image.write(0, std::vector(4096, std::byte{1}));
  image.flush();
  EXPECT_TRUE(inspect().in_use);
  EXPECT_EQ(inspect().sectors_in_cow, 8U);
}

TEST_F(Info, ChangesNothing) {
  make();
  const auto before = tests::read_file(pair_.cow);
  tests::set_mtime(pair_.cow, 12345);
  (void)inspect();
  EXPECT_EQ(tests::read_file(pair_.cow), before);
  EXPECT_EQ(fs::last_write_time(pair_.cow), 12345);
}

TEST_F(Info, ACowThatMayNotBeWrittenCanBeInspected) {
  make();
  fs::permissions(pair_.cow, fs::owner_read | fs::group_read | fs::others_read);
  const tests::WithoutFilePrivileges ordinary;
  EXPECT_EQ(inspect().backing_state, BackingState::ok);
}

TEST_F(Info, SectorsWithoutABitAreNoObstacle) {
  make({.format = HeaderFormat::v2, .backing_size = 2051 * 512});
  set_bits({5});
  const auto info = inspect();
  EXPECT_EQ(info.sectors_in_cow, 1U);
  EXPECT_EQ(info.layout.sectors - info.layout.sectors_with_bit, 3U);
}

TEST_F(Info, AHugeSparseCowIsCountedRight) {
  constexpr std::uint64_t huge = std::uint64_t{1} << 40;
  pair_.cow = directory_ / "cow";
  pair_.backing = directory_ / "backing";
  tests::make_file(pair_.backing)->resize(huge);
  tests::set_mtime(pair_.backing, tests::test_mtime);
  pair_.header = tests::make_header({.backing_size = huge}, pair_.backing.string());
  pair_.layout = compute_layout(pair_.header, "cow");
  tests::make_empty_cow(*tests::make_file(pair_.cow), pair_.header);
  EXPECT_EQ(inspect().sectors_in_cow, 0U);
  const auto last = pair_.layout.sectors - 1;
  set_bits({0, 12345678, last / 2, last - 1, last});
  const auto info = inspect();
  EXPECT_EQ(info.sectors_in_cow, 5U);
  EXPECT_EQ(info.backing_state, BackingState::ok);
  EXPECT_LT(info.allocated, 1U << 20);
}

TEST_F(Info, WhatIsNoCowIsRefused) {
  tests::write_file(directory_ / "file", "no COW at all");
  EXPECT_THAT(tests::message_of<DamagedCow>([&] { (void)inspect_cow(directory_ / "file"); }),
              HasSubstr("is not a COW file"));
  EXPECT_THAT(tests::message_of<Error>([&] { (void)inspect_cow(directory_.path()); }),
              HasSubstr("is a directory"));
  EXPECT_EQ(tests::error_of([&] { (void)inspect_cow(directory_ / "missing"); }), ENOENT);
}

}  // namespace
}  // namespace cowfs::core
