// Pointing a COW at its moved backing, and setting a backing's time back.

#include "cowcore/relocate_cow.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/filesystem.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
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
using testing::AllOf;
using testing::HasSubstr;
using tests::message_of;
using tests::Shape;

class Relocate : public testing::Test {
 protected:
  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
  }

  [[nodiscard]] fs::path move_backing(const std::string& name = "moved") const {
    const auto to = directory_ / name;
    fs::rename(pair_.backing, to);
    return to;
  }

  Relocation relocate(const fs::path& backing, const ConfirmRestore& confirm = {}) const {
    return relocate_cow(pair_.cow, backing, confirm, run_);
  }

  [[nodiscard]] CowHeader header() const {
    return describe_cow(*PosixStorage::open(pair_.cow, Access::read_only, FileKinds::regular))
        .header;
  }

  [[nodiscard]] std::vector<std::byte> merged() const {
    auto opened = open_cow(pair_.cow, std::nullopt, Access::read_only, std::nullopt);
    const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
    return tests::read_all(image);
  }

  /// Expects that this fails so, and that the COW is as before.
  template <typename Exception>
  std::string refusal(const fs::path& backing, const ConfirmRestore& confirm = {}) const {
    const auto before = tests::read_file(pair_.cow);
    auto message = message_of<Exception>([&] { (void)relocate(backing, confirm); });
    EXPECT_TRUE(tests::read_file(pair_.cow) == before);
    return message;
  }

  tests::TemporaryDirectory directory_;
  fs::path run_ = directory_ / "run";
  tests::TestRandom random_;
  tests::PairOnDisk pair_;
};

class RelocateEveryLayout : public Relocate, public testing::WithParamInterface<Shape> {};

TEST_P(RelocateEveryLayout, ChangesThePathAndNothingElse) {
  make(GetParam());
  auto expected = tests::read_file(pair_.cow);
  const auto moved = move_backing();
  const auto result = relocate(moved);
  EXPECT_EQ(result.from, pair_.backing.string());
  EXPECT_EQ(result.to, moved.string());
  EXPECT_FALSE(result.mtime_restored);
  auto header = pair_.header;
  header.backing_path = moved.string();
  EXPECT_EQ(this->header(), header);
  const auto bytes = serialize_header(header);
  std::copy(bytes.begin(), bytes.end(), expected.begin());
  EXPECT_TRUE(tests::read_file(pair_.cow) == expected);
  EXPECT_EQ(tests::difference(merged(), pair_.content), "the same");
}

std::vector<Shape> shapes() {
  auto all = tests::every_layout(1 << 20);
  all.push_back({.backing_size = 1000001});
  all.push_back({.format = HeaderFormat::v2, .backing_size = 2051 * 512});  // the last have no bit
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, RelocateEveryLayout, testing::ValuesIn(shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST_F(Relocate, StoresAnAbsolutePath) {
  make();
  (void)move_backing();
  const tests::WorkingDirectory here(directory_.path());
  EXPECT_EQ(relocate("moved").to, (directory_ / "moved").string());
}

TEST_F(Relocate, TheSameFileByAnotherNameIsNamedAsAskedFor) {
  make();
  fs::create_hard_link(pair_.backing, directory_ / "hard");
  EXPECT_EQ(relocate(directory_ / "hard").to, (directory_ / "hard").string());
  EXPECT_EQ(header().backing_path, (directory_ / "hard").string());
  const auto again = relocate(directory_ / "hard");
  EXPECT_EQ(again.from, again.to);
}

TEST_F(Relocate, APathThatDoesNotFitIntoAV1HeaderIsRefused) {
  make({.format = HeaderFormat::v1, .magic_order = MagicOrder::little});
  const auto longest = 255 - directory_.path().size() - 1;
  const auto fits = directory_ / std::string(longest, 'n');
  fs::rename(pair_.backing, fits);
  EXPECT_EQ(relocate(fits).to, fits.string());
  fs::create_directory(directory_ / "d");
  const auto too_long = directory_ / "d" / std::string(longest - 1, 'n');
  fs::rename(fits, too_long);
  EXPECT_THAT(refusal<Error>(too_long),
              AllOf(HasSubstr("256 bytes"), HasSubstr("a V1 header takes 255"),
                    HasSubstr("use a shorter path")));
}

TEST_F(Relocate, ABackingThatDoesNotMatchIsRefused) {
  make();
  const auto moved = move_backing();
  tests::set_mtime(moved, 1234567890);
  EXPECT_THAT(refusal<BackingMismatch>(moved), HasSubstr("last changed at"));
  tests::set_mtime(moved, tests::test_mtime);
  fs::resize_file(moved, 5000);
  tests::set_mtime(moved, tests::test_mtime);
  EXPECT_THAT(refusal<BackingMismatch>(moved), HasSubstr("was made for a backing of"));
  EXPECT_THAT(refusal<BackingMismatch>(directory_ / "nowhere"), HasSubstr("cannot open"));
  EXPECT_THAT(refusal<BackingMismatch>(pair_.cow), HasSubstr("names itself"));
  EXPECT_THAT(refusal<BackingMismatch>("/proc/self/maps"), HasSubstr("a file of the kernel"));
  EXPECT_THAT(refusal<Error>(directory_.path()), HasSubstr("is a directory"));
}

TEST_F(Relocate, ACowInUseIsRefused) {
  make();
  const auto moved = move_backing();
  const tests::ForkedProcess reader(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_RDLCK); });
  ASSERT_TRUE(reader.succeeded());
  EXPECT_THAT(refusal<Busy>(moved), HasSubstr("in use"));
}

TEST_F(Relocate, SetsTheTimeBackWhenThatIsConfirmed) {
  make();
  const auto moved = move_backing();
  tests::set_mtime(moved, 1234567890);
  MtimeDifference asked;
  const auto result = relocate(moved, [&](const MtimeDifference& difference) {
    asked = difference;
    EXPECT_EQ(fs::last_write_time(moved), 1234567890) << "asked when it was done already";
  });
  EXPECT_EQ(asked.recorded, tests::test_mtime);
  EXPECT_EQ(asked.present, 1234567890U);
  EXPECT_TRUE(result.mtime_restored);
  EXPECT_EQ(fs::last_write_time(moved), tests::test_mtime);
  EXPECT_EQ(tests::difference(merged(), pair_.content), "the same");
}

TEST_F(Relocate, SetsTheTimeOfABackingThatWasNotMoved) {
  make();
  tests::set_mtime(pair_.backing, 1234567890);
  EXPECT_TRUE(relocate(pair_.backing, [](const MtimeDifference&) {}).mtime_restored);
  EXPECT_EQ(tests::difference(merged(), pair_.content), "the same");
}

TEST_F(Relocate, AsksNothingWhenTheTimeIsRight) {
  make();
  const auto moved = move_backing();
  EXPECT_FALSE(relocate(moved, [](const MtimeDifference&) { FAIL(); }).mtime_restored);
}

TEST_F(Relocate, ANoLeavesAllAsItWas) {
  make();
  const auto moved = move_backing();
  tests::set_mtime(moved, 1234567890);
  EXPECT_EQ(refusal<Error>(moved, [](const MtimeDifference&) { throw Error("b", "no"); }), "b: no");
  EXPECT_EQ(fs::last_write_time(moved), 1234567890);
}

TEST_F(Relocate, NeverSetsTheTimeOfAnotherSize) {
  make();
  const auto moved = move_backing();
  fs::resize_file(moved, 5000);
  EXPECT_THAT(refusal<BackingMismatch>(moved, [](const MtimeDifference&) { FAIL(); }),
              HasSubstr("was made for a backing of"));
}

TEST_F(Relocate, NeverSetsTheTimeOfABackingInUse) {
  make();
  const auto moved = move_backing();
  tests::set_mtime(moved, 1234567890);
  const tests::ForkedProcess guest(
      [&] { return tests::take_process_lock(moved.c_str(), F_RDLCK); });
  ASSERT_TRUE(guest.succeeded());
  EXPECT_THAT(refusal<Busy>(moved, [](const MtimeDifference&) { FAIL(); }), HasSubstr("in use"));
  EXPECT_EQ(fs::last_write_time(moved), 1234567890);
}

TEST_F(Relocate, PutsWhatAKilledMountHasLeftOnDiskFirst) {
  make();
  {
    const auto open = [&](const fs::path& path, Access access) {
      return PosixStorage::open(path, access, FileKinds::regular);
    };
    const auto file = open(pair_.cow, Access::read_write);
    auto pending = std::make_unique<PendingFile>(run_, *file, describe_cow(*file),
                                                 PendingFile::Existing::replace);
    auto& watching = *pending;
    CowImage image(watch_writes(open(pair_.cow, Access::read_write), watching),
                   open(pair_.backing, Access::read_only), pair_.layout, false, std::move(pending));
    image.write(0, std::vector(512, std::byte{7}));
  }
  const auto result = relocate(move_backing());
  EXPECT_THAT(result.notices, testing::ElementsAre(HasSubstr("they are in its bitmap now")));
  EXPECT_EQ(merged().at(511), std::byte{7});
}

}  // namespace
}  // namespace cowfs::core
