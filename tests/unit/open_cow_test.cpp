// Opening a COW with its backing: what is accepted, what is refused, and with which words.

#include "cowcore/open_cow.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
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
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using tests::message_of;
using tests::Shape;

class OpenCow : public testing::Test {
 protected:
  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
  }

  [[nodiscard]] OpenedCow open(Access access = Access::read_write,
                               const std::optional<fs::path>& backing = std::nullopt) const {
    return open_cow(directory_ / "cow", backing, access, std::nullopt);
  }

  template <typename Exception>
  [[nodiscard]] std::string refusal(Access access = Access::read_write,
                                    const std::optional<fs::path>& backing = std::nullopt) const {
    return message_of<Exception>([&] { (void)open(access, backing); });
  }

  tests::TemporaryDirectory directory_;
  tests::TestRandom random_;
  tests::PairOnDisk pair_;
};

class OpenEveryLayout : public OpenCow, public testing::WithParamInterface<Shape> {};

TEST_P(OpenEveryLayout, ForReadingAndForWriting) {
  make(GetParam());
  for (const auto access : {Access::read_only, Access::read_write}) {
    auto opened = open(access);
    EXPECT_EQ(opened.access, access);
    EXPECT_EQ(opened.header, pair_.header);
    EXPECT_EQ(opened.layout, pair_.layout);
    EXPECT_THAT(opened.notices, IsEmpty());
    const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
    EXPECT_EQ(tests::difference(tests::read_all(image), pair_.content), "the same");
  }
}

TEST_P(OpenEveryLayout, ChangesNoByte) {
  make(GetParam());
  const auto before = tests::read_file(pair_.cow);
  tests::set_mtime(pair_.cow, 12345);
  (void)open();
  (void)open(Access::read_write, pair_.backing);
  EXPECT_EQ(tests::read_file(pair_.cow), before);
  EXPECT_EQ(fs::last_write_time(pair_.cow), 12345);
}

INSTANTIATE_TEST_SUITE_P(Layouts, OpenEveryLayout, testing::ValuesIn(tests::every_layout(1 << 20)),
                         [](const auto& test) { return tests::shape_name(test.param); });

// The backing

TEST_F(OpenCow, ABackingOfAnotherSizeIsRefusedWithBothSizes) {
  make();
  tests::make_file(directory_ / "new")->resize((1 << 20) + 512);
  fs::rename(directory_ / "new", pair_.backing);
  // The time is wrong as well: the size comes first, as in UML.
  EXPECT_THAT(refusal<BackingMismatch>(),
              AllOf(StartsWith(pair_.cow.string() + ": "), HasSubstr("1.0 MiB (1048576 bytes)"),
                    HasSubstr("(1049088 bytes)"), HasSubstr("; ")));
}

TEST_F(OpenCow, ABackingThatWasChangedSinceIsRefusedWithTheTimeToSetBack) {
  make();
  tests::set_mtime(pair_.backing, tests::test_mtime + 1);
  EXPECT_THAT(refusal<BackingMismatch>(),
              AllOf(HasSubstr("last changed at 20"), HasSubstr("was changed at 20"),
                    HasSubstr("touch -m -d @1700000001 " + pair_.backing.string()),
                    HasSubstr("only if its content is surely the same")));
  EXPECT_THAT(refusal<BackingMismatch>(Access::read_only), HasSubstr("was changed at"));
}

TEST_F(OpenCow, OnlyWholeSecondsOfTheTimeCount) {
  make();
  const timespec times[2] = {{tests::test_mtime, 999'999'999}, {tests::test_mtime, 999'999'999}};
  ASSERT_EQ(::utimensat(AT_FDCWD, pair_.backing.c_str(), times, 0), 0);
  EXPECT_NO_THROW((void)open());
}

TEST_F(OpenCow, AMissingBackingIsRefusedWithItsName) {
  make();
  fs::remove(pair_.backing);
  EXPECT_THAT(refusal<BackingMismatch>(),
              AllOf(HasSubstr("cannot open its backing " + pair_.backing.string()),
                    HasSubstr("No such file"), HasSubstr("as COW,BACKING")));
}

TEST_F(OpenCow, AGivenBackingThatIsMissingIsRefused) {
  make();
  EXPECT_THAT(refusal<BackingMismatch>(Access::read_write, directory_ / "elsewhere"),
              HasSubstr((directory_ / "elsewhere").string()));
}

TEST_F(OpenCow, AHeaderWithoutAPathNeedsAGivenBacking) {
  make({.format = HeaderFormat::v2});
  auto header = pair_.header;
  header.backing_path.clear();
  PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular)
      ->write(0, serialize_header(header));
  EXPECT_THAT(refusal<BackingMismatch>(), HasSubstr("names no backing"));
  EXPECT_NO_THROW((void)open(Access::read_write, pair_.backing));
}

TEST_F(OpenCow, ARelativePathInTheHeaderStartsAtTheWorkingDirectory) {
  make();
  auto header = pair_.header;
  header.backing_path = "backing";
  rewrite_header(*PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular), header);
  {
    const tests::WorkingDirectory here(directory_.path());
    EXPECT_NO_THROW((void)open());
  }
  const tests::WorkingDirectory elsewhere("/");
  EXPECT_THAT(refusal<BackingMismatch>(), HasSubstr("/backing"));
}

TEST_F(OpenCow, ACowThatNamesItselfIsRefused) {
  make();
  // As large as itself, so that nothing else is wrong with it.
  auto header = pair_.header;
  header.backing_path = pair_.cow.string();
  header.backing_size = 3 << 20;
  fs::remove(pair_.cow);
  const auto cow = tests::make_file(pair_.cow);
  cow->write(0, serialize_header(header));
  cow->resize(header.backing_size);
  tests::set_mtime(pair_.cow, tests::test_mtime);
  EXPECT_THAT(refusal<BackingMismatch>(), HasSubstr("names itself as its backing"));
  EXPECT_THAT(refusal<BackingMismatch>(Access::read_only), HasSubstr("names itself"));
  fs::create_hard_link(pair_.cow, directory_ / "again");
  EXPECT_THAT(refusal<BackingMismatch>(Access::read_write, directory_ / "again"),
              HasSubstr("names itself"));
}

TEST_F(OpenCow, ABackingThatIsAFifoOrADirectoryIsRefusedWithoutWaiting) {
  make();
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(refusal<Error>(Access::read_write, directory_ / "fifo"), HasSubstr("is a FIFO"));
  EXPECT_THAT(refusal<Error>(Access::read_write, directory_.path()), HasSubstr("is a directory"));
  fs::rename(directory_ / "fifo", pair_.backing);
  EXPECT_THAT(refusal<Error>(), HasSubstr("is a FIFO"));
}

TEST_F(OpenCow, AFileOfTheKernelIsNoBacking) {
  make();
  EXPECT_THAT(refusal<BackingMismatch>(Access::read_only, "/proc/version"),
              HasSubstr("file of the kernel"));
}

TEST_F(OpenCow, ABackingThatNobodyMayWriteIsFine) {
  make();
  ASSERT_EQ(::chmod(pair_.backing.c_str(), 0444), 0);
  const tests::WithoutFilePrivileges ordinary;
  EXPECT_EQ(open().access, Access::read_write);
}

// Else root would show a user's guest any file of the host.
TEST_F(OpenCow, RootOpensForAnotherUserOnlyTheBackingThatThisUserMayRead) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  // Below /tmp: every directory on the way has to be open to the other user.
  const auto place = fs::temp_directory_path() / fs::unique_path("cowfs-%%%%-%%%%");
  fs::create_directory(place);
  const auto pair = tests::make_pair_on_disk(place, {}, random_);
  const auto open_it = [&](const std::optional<fs::path>& backing) {
    (void)open_cow(pair.cow, backing, Access::read_write, std::nullopt);
  };
  ASSERT_EQ(::chown(pair.cow.c_str(), 65534, 65534), 0);
  ASSERT_EQ(::chmod(pair.backing.c_str(), 0600), 0);
  EXPECT_THAT(message_of<BackingMismatch>([&] { open_it(std::nullopt); }),
              AllOf(HasSubstr("Permission denied"), HasSubstr("COW,BACKING")));
  EXPECT_NO_THROW(open_it(pair.backing)) << "root has named it";
  ASSERT_EQ(::chmod(pair.backing.c_str(), 0644), 0);
  EXPECT_NO_THROW(open_it(std::nullopt));
  fs::remove_all(place);
}

// The COW

TEST_F(OpenCow, ADamagedCowIsRefusedAndNeverUsedAsRaw) {
  make();
  const auto bytes = tests::read_file(pair_.cow);
  const auto refused_with = [&](std::vector<std::byte> damaged) {
    tests::write_file(pair_.cow, damaged);
    const auto message = refusal<DamagedCow>();
    EXPECT_EQ(refusal<DamagedCow>(Access::read_only), message);
    EXPECT_EQ(refusal<DamagedCow>(Access::read_write, pair_.backing), message);
    EXPECT_EQ(tests::read_file(pair_.cow), damaged);
    return message;
  };
  auto no_magic = bytes;
  no_magic[0] = {};
  EXPECT_THAT(refused_with(no_magic), HasSubstr("is not a COW file"));
  EXPECT_THAT(refused_with({}), HasSubstr("is not a COW file"));
  EXPECT_THAT(refused_with({bytes.begin(), bytes.begin() + 4000}), HasSubstr("inside its header"));
  EXPECT_THAT(refused_with({bytes.begin(), bytes.begin() + 8192 + 255}),
              HasSubstr("inside its bitmap (8447 of 8448 bytes)"));
  tests::write_file(pair_.cow, std::span(bytes).first(8192 + 256));
  EXPECT_NO_THROW((void)open()) << "data that is not there reads as zeros";
}

TEST_F(OpenCow, WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  make();
  const auto refusal_of = [&](const fs::path& path) {
    return message_of<Error>(
        [&] { (void)open_cow(path, pair_.backing, Access::read_write, std::nullopt); });
  };
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(refusal_of(directory_ / "fifo"), HasSubstr("is a FIFO"));
  EXPECT_THAT(refusal_of(directory_.path()), HasSubstr("is a directory"));
  EXPECT_THAT(refusal_of("/dev/zero"), HasSubstr("is a character device"));
}

TEST_F(OpenCow, AMissingCowIsAnErrorOfTheSystem) {
  EXPECT_EQ(tests::error_of([&] { (void)open(); }), ENOENT);
}

TEST_F(OpenCow, ACowThatMayNotBeWrittenIsOpenedReadOnly) {
  make();
  ASSERT_EQ(::chmod(pair_.cow.c_str(), 0444), 0);
  const tests::WithoutFilePrivileges ordinary;
  const auto opened = open();
  EXPECT_EQ(opened.access, Access::read_only);
  EXPECT_THAT(opened.notices, ElementsAre(HasSubstr("opened read-only")));
  // With the lock of a reader: another may read it as well.
  EXPECT_NO_THROW((void)open(Access::read_only));
}

TEST_F(OpenCow, SectorsWithoutABitRefuseWritingAndNameTheWayOut) {
  make({.format = HeaderFormat::v2, .backing_size = 2051 * 512});
  EXPECT_THAT(refusal<Error>(), AllOf(HasSubstr("V2 bitmap has no bit for the last 3 sectors"),
                                      HasSubstr("-o ro"), HasSubstr("`cowfs convert`")));
  auto opened = open(Access::read_only);
  EXPECT_FALSE(opened.layout.every_sector_has_bit());
  const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
  EXPECT_EQ(tests::difference(tests::read_all(image), pair_.content), "the same");
}

TEST_F(OpenCow, OneSectorWithoutABitIsOneSector) {
  make({.format = HeaderFormat::v1, .backing_size = 9 * 512, .magic_order = MagicOrder::little});
  EXPECT_THAT(refusal<Error>(), HasSubstr("V1 bitmap has no bit for the last 1 sector,"));
}

// Locks

TEST_F(OpenCow, ACowThatIsOpenForWritingIsBusy) {
  make();
  auto opened = open();
  EXPECT_THAT(refusal<Busy>(), StartsWith(pair_.cow.string() + ": in use"));
  EXPECT_THAT(refusal<Busy>(Access::read_only), HasSubstr("in use"));
  opened = {};
  EXPECT_NO_THROW((void)open());
}

TEST_F(OpenCow, ManyMayReadOneCow) {
  make();
  const auto one = open(Access::read_only);
  const auto other = open(Access::read_only);
  EXPECT_THAT(refusal<Busy>(), HasSubstr("in use"));
}

TEST_F(OpenCow, ManyCowsMayShareOneBacking) {
  make();
  fs::copy_file(pair_.cow, directory_ / "cow2");
  const auto one = open();
  EXPECT_NO_THROW(
      (void)open_cow(directory_ / "cow2", std::nullopt, Access::read_write, std::nullopt));
}

TEST_F(OpenCow, ACowHeldByUmlIsBusyAndTheProcessIsNamed) {
  make();
  const tests::ForkedProcess uml(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THAT(refusal<Busy>(), HasSubstr("(pid " + std::to_string(uml.pid()) + ")"));
}

TEST_F(OpenCow, UmlCannotTakeWhatIsOpenHere) {
  make();
  const auto opened = open();
  const tests::ForkedProcess on_cow(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_RDLCK); });
  EXPECT_FALSE(on_cow.succeeded());
  const tests::ForkedProcess writing_backing(
      [&] { return tests::take_process_lock(pair_.backing.c_str(), F_WRLCK); });
  EXPECT_FALSE(writing_backing.succeeded());
  const tests::ForkedProcess reading_backing(
      [&] { return tests::take_process_lock(pair_.backing.c_str(), F_RDLCK); });
  EXPECT_TRUE(reading_backing.succeeded());
}

TEST_F(OpenCow, ABackingThatSomebodyWritesIsBusy) {
  make();
  const tests::ForkedProcess uml(
      [&] { return tests::take_process_lock(pair_.backing.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THAT(refusal<Busy>(), AllOf(StartsWith(pair_.backing.string()),
                                     HasSubstr("(pid " + std::to_string(uml.pid()) + ")")));
}

TEST_F(OpenCow, ARefusedOneIsNotLeftLocked) {
  make();
  tests::set_mtime(pair_.backing, 1);
  EXPECT_THAT(refusal<BackingMismatch>(), HasSubstr("changed"));
  const auto cow = PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular);
  EXPECT_NO_THROW(cow->lock(LockKind::exclusive));
}

}  // namespace
}  // namespace cowfs::core
