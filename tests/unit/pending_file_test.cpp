// The pending file: what a killed daemon leaves, and who may put it on disk.

#include "cowcore/pending_file.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using State = LeftBehind::State;
using Bytes = std::vector<std::byte>;
using testing::HasSubstr;
using tests::Operation;

std::int64_t ns(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

class Pending : public testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<PosixStorage> open_cow_file(
      Access access = Access::read_write) const {
    return PosixStorage::open(pair_.cow, access, FileKinds::regular);
  }
  [[nodiscard]] CowDescription description() const { return describe_cow(*open_cow_file()); }

  [[nodiscard]] std::unique_ptr<PendingFile> make(
      PendingFile::Existing existing = PendingFile::Existing::replace) const {
    return std::make_unique<PendingFile>(run_, *open_cow_file(), description(), existing);
  }

  /// An image as a daemon has it. It dies without a word when it goes.
  [[nodiscard]] std::unique_ptr<CowImage> open_image(
      PendingFile::Existing existing = PendingFile::Existing::replace) {
    auto pending = make(existing);
    pending_ = pending.get();
    return std::make_unique<CowImage>(
        watch_writes(open_cow_file(), *pending),
        PosixStorage::open(pair_.backing, Access::read_only, FileKinds::regular), pair_.layout,
        false, std::move(pending));
  }

  void write_and_die(SectorNumber first, SectorCount count) {
    open_image()->write(first * sector_bytes, Bytes(count * sector_bytes, std::byte{7}));
  }

  [[nodiscard]] LeftBehind find() const {
    return find_left_behind(run_, *open_cow_file(), description());
  }

  [[nodiscard]] fs::path file() const { return run_ / tests::names_in(run_).at(0); }

  [[nodiscard]] bool on_disk(SectorNumber sector) const {
    return tests::bit_on_disk(*open_cow_file(), pair_.layout, sector);
  }

  /// Writes into the COW as somebody else would, a moment after the daemon.
  void write_as_stranger() const {
    const auto later = ns(open_cow_file()->status().modified) + 3'000'000'000;
    const timespec time{later / 1'000'000'000, later % 1'000'000'000};
    const timespec times[2] = {time, time};
    ASSERT_EQ(::utimensat(AT_FDCWD, pair_.cow.c_str(), times, 0), 0);
  }

  template <typename Value>
  void patch(std::uint64_t offset, const Value& value) const {
    const FileDescriptor fd(::open(file().c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), &value, sizeof value, static_cast<off_t>(offset)),
              static_cast<ssize_t>(sizeof value));
  }

  tests::TemporaryDirectory directory_;
  fs::path run_ = directory_ / "run";
  tests::TestRandom random_;
  tests::PairOnDisk pair_ =
      tests::make_pair_on_disk(directory_.path(), {.backing_size = 64 << 20}, random_);
  PendingFile* pending_ = nullptr;
};

TEST_F(Pending, WhatAKilledDaemonAcknowledgedIsPutOnDiskByTheNextOpen) {
  write_and_die(3, 5);
  write_and_die(3, 0);  // replaces the file: nothing is left of the bits
  EXPECT_EQ(find().state, State::nothing);
  {
    const auto image = open_image();
    image->write(3 * sector_bytes, Bytes(5 * sector_bytes, std::byte{7}));
    image->write(100000 * sector_bytes + 5, Bytes(100, std::byte{9}));
    image->zero(70000 * sector_bytes, 4096);
  }
  EXPECT_FALSE(on_disk(3));
  const auto left = find();
  EXPECT_EQ(left.state, State::applicable) << left.why;
  EXPECT_GE(left.sectors, 6U);
  const auto cow = open_cow_file();
  const auto notice = settle_left_behind(run_, *cow, description(), Access::read_write);
  EXPECT_THAT(notice, HasSubstr("they are in its bitmap now"));
  for (const SectorNumber sector : {3U, 7U, 100000U}) EXPECT_TRUE(on_disk(sector)) << sector;
  EXPECT_FALSE(on_disk(8));
  EXPECT_TRUE(tests::names_in(run_).empty());
  EXPECT_EQ(settle_left_behind(run_, *cow, description(), Access::read_write), "");
}

TEST_F(Pending, BitsAreAppliedInTheOrderOfAFlush) {
  write_and_die(3, 1);
  const auto log = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage cow(open_cow_file(), log);
  apply_left_behind(find(), cow, description());
  std::vector<Operation> order;
  for (const auto& operation : log->operations()) order.push_back(operation.operation);
  EXPECT_EQ(order, (std::vector{Operation::sync, Operation::write, Operation::sync}));
}

TEST_F(Pending, TheNextWorkerTakesTheBitsOver) {
  write_and_die(3, 5);
  {
    const auto image = open_image(PendingFile::Existing::adopt);
    EXPECT_TRUE(image->sectors().in_cow(3));
    EXPECT_EQ(tests::read_image(*image, 3 * sector_bytes, 512), Bytes(512, std::byte{7}));
    image->write(70000 * sector_bytes, Bytes(512, std::byte{8}));
  }
  {
    const auto image = open_image(PendingFile::Existing::adopt);
    image->flush();
    EXPECT_TRUE(on_disk(3));
    EXPECT_TRUE(on_disk(70000));
    pending_->remove();
  }
  EXPECT_TRUE(tests::names_in(run_).empty());
}

TEST_F(Pending, AWorkerThatTakesOverCountsNoWritesOfTheOneBefore) {
  write_and_die(3, 1);
  {
    const auto pending = make(PendingFile::Existing::adopt);
    pending->note_write_begins();  // dies in the middle of it
  }
  {
    const auto pending = make(PendingFile::Existing::adopt);
    pending->note_write_begins();
    pending->note_write_ends();
  }
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_EQ(::utimensat(AT_FDCWD, pair_.cow.c_str(), times, 0), 0);
  EXPECT_EQ(find().state, State::conflict) << "no write was under way that could explain this";
}

TEST_F(Pending, AWorkerTakesOverNothingButTheFileOfItsCow) {
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), std::system_error);
  write_and_die(3, 1);
  patch(0, std::array<char, 8>{'d', 'a', 'm', 'a', 'g', 'e', 'd', '!'});
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), Error);
  write_and_die(3, 1);
  patch(8, std::array<char, 8>{'r', 'e', 'b', 'o', 'o', 't', 'e', 'd'});
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), Error);
}

TEST_F(Pending, AFlushLeavesNothingBehind) {
  {
    const auto image = open_image();
    image->write(0, Bytes(5000));
    image->flush();
  }
  EXPECT_EQ(find().state, State::nothing);
}

TEST_F(Pending, OfAnotherBootIsStale) {
  write_and_die(3, 1);
  patch(8, std::array<char, 8>{'r', 'e', 'b', 'o', 'o', 't', 'e', 'd'});
  EXPECT_EQ(find().state, State::stale);
  const auto cow = open_cow_file();
  EXPECT_THROW(apply_left_behind(find(), *cow, description()), Error);
  EXPECT_THAT(settle_left_behind(run_, *cow, description(), Access::read_write),
              HasSubstr("last reboot"));
  EXPECT_FALSE(on_disk(3));
  EXPECT_TRUE(tests::names_in(run_).empty());
}

TEST_F(Pending, OfAFileThatHadTheSameInodeIsStale) {
  write_and_die(3, 1);
  patch(8 + 40 + 16, std::int64_t{12345});  // when the COW was born
  EXPECT_EQ(find().state, State::stale);
}

TEST_F(Pending, OfAnotherInodeIsStale) {
  write_and_die(3, 1);
  patch(8 + 40 + 8, std::uint64_t{12345});
  EXPECT_EQ(find().state, State::stale);
}

TEST_F(Pending, OfAnotherSizeIsStale) {
  write_and_die(3, 1);
  patch(8 + 40 + 16 + 8, std::uint64_t{1});
  EXPECT_EQ(find().state, State::stale);
}

TEST_F(Pending, ACowThatSomebodyElseWroteIsRefused) {
  write_and_die(3, 1);
  write_as_stranger();
  EXPECT_EQ(find().state, State::conflict);
  const auto cow = open_cow_file();
  try {
    (void)settle_left_behind(run_, *cow, description(), Access::read_write);
    FAIL() << "opened";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("somebody else has written the COW"));
    EXPECT_THAT(error.what(), HasSubstr("cowfs check --apply-pending"));
  }
  EXPECT_FALSE(on_disk(3));
  apply_left_behind(find(), *cow, description());
  EXPECT_TRUE(on_disk(3)) << "the user's decision";
}

TEST_F(Pending, AWriteThatWasUnderWayIsNobodyElses) {
  {
    const auto image = open_image();
    image->write(3 * sector_bytes, Bytes(512));
    pending_->note_write_begins();  // dies in the middle of it
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  ASSERT_EQ(::utimensat(AT_FDCWD, pair_.cow.c_str(), times, 0), 0);
  EXPECT_EQ(find().state, State::applicable);
  write_as_stranger();
  EXPECT_EQ(find().state, State::conflict);
}

TEST_F(Pending, AHeaderThatWasRewrittenIsAConflict) {
  write_and_die(3, 1);
  const auto before = open_cow_file()->status();
  auto header = pair_.header;
  header.backing_path = "/elsewhere";
  rewrite_header(*open_cow_file(), header);
  const timespec times[2] = {before.modified, before.modified};
  ASSERT_EQ(::utimensat(AT_FDCWD, pair_.cow.c_str(), times, 0), 0);
  EXPECT_EQ(find().state, State::conflict);
}

TEST_F(Pending, AFailedSyncIsRemembered) {
  {
    const auto image = open_image();
    image->write(3 * sector_bytes, Bytes(512));
    pending_->note_failure();
  }
  EXPECT_EQ(find().state, State::failed);
  const auto image = open_image(PendingFile::Existing::adopt);
  EXPECT_THROW(image->flush(), std::system_error);
  EXPECT_THROW(image->write(0, Bytes(512)), std::system_error);
}

TEST_F(Pending, OneThatIsKilledWhileItAppliesLeavesWhatIsStillToBeApplied) {
  write_and_die(3, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cow = open_cow_file();
  const auto plan = std::make_shared<tests::FaultPlan>();
  plan->add({.operation = Operation::write, .error = ENOSPC});
  tests::FaultyStorage full(open_cow_file(), plan);
  EXPECT_THROW(apply_left_behind(find(), full, description()), std::system_error);
  EXPECT_EQ(find().state, State::applicable) << "no room is no conflict: " << find().why;
  // As if killed right after the bitmap was written: COW and file as they are then.
  struct Killed {};
  class KilledAfterWrite final : public tests::ForwardingStorage {
   public:
    using ForwardingStorage::ForwardingStorage;
    void sync() override {
      if (++syncs_ == 2) throw Killed();
    }

   private:
    int syncs_ = 0;
  };
  KilledAfterWrite killed(open_cow_file());
  const auto before_kill = find();
  try {
    apply_left_behind(before_kill, killed, description());
    FAIL() << "not killed";
  } catch (const Killed&) {
    patch(8 + 40 + 16 + 8 + 8, std::uint32_t{0});  // the one that is killed notes no failure
  }
  EXPECT_TRUE(on_disk(3));
  EXPECT_EQ(find().state, State::applicable) << find().why;
  apply_left_behind(find(), *cow, description());
  EXPECT_TRUE(tests::names_in(run_).empty());
}

TEST_F(Pending, AfterASyncThatFailedWhileApplyingTheUserIsAsked) {
  for (const std::uint64_t nth : {1U, 2U}) {
    write_and_die(3 + nth, 1);
    const auto plan = std::make_shared<tests::FaultPlan>();
    plan->add({.operation = Operation::sync, .nth = nth, .error = EIO});
    tests::FaultyStorage cow(open_cow_file(), plan);
    EXPECT_THROW(apply_left_behind(find(), cow, description()), std::system_error);
    EXPECT_EQ(find().state, State::failed) << "a second sync would claim success";
  }
}

TEST_F(Pending, AReadOnlyOpenSaysThatItNeedsToWrite) {
  write_and_die(3, 1);
  const auto cow = open_cow_file(Access::read_only);
  EXPECT_THROW((void)settle_left_behind(run_, *cow, description(), Access::read_only), Error);
  EXPECT_EQ(find().state, State::applicable);
}

TEST_F(Pending, ADamagedFileIsNeverApplied) {
  write_and_die(3, 1);
  const auto path = file();
  fs::resize_file(path, 5000);
  EXPECT_EQ(find().state, State::damaged);
  fs::resize_file(path, 10);
  EXPECT_EQ(find().state, State::damaged);
  fs::resize_file(path, 0);
  EXPECT_EQ(find().state, State::damaged);
  const auto cow = open_cow_file();
  EXPECT_THROW((void)settle_left_behind(run_, *cow, description(), Access::read_write), Error);
  EXPECT_THROW(apply_left_behind(find(), *cow, description()), Error);
  drop_left_behind(find());
  EXPECT_EQ(find().state, State::nothing);
}

TEST_F(Pending, OtherThingsUnderItsNameAreNeitherFollowedNorWaitedFor) {
  write_and_die(3, 1);
  const auto path = file();
  fs::rename(path, directory_ / "real");
  fs::create_symlink(directory_ / "real", path);
  EXPECT_EQ(find().state, State::damaged) << "a symbolic link";
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), std::system_error);
  fs::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(find().state, State::damaged) << "a FIFO";
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), Error);
  fs::remove(path);
  fs::create_directory(path);
  EXPECT_EQ(find().state, State::damaged) << "a directory";
  EXPECT_THROW((void)make(PendingFile::Existing::adopt), std::system_error);
  EXPECT_THROW((void)make(), std::system_error);
  EXPECT_THAT(tests::names_in(run_), testing::ElementsAre(path.filename().string()))
      << "nothing is left over";
}

TEST_F(Pending, ADirectoryThatOthersCanWriteIsRefused) {
  fs::create_directory(run_);
  ASSERT_EQ(::chmod(run_.c_str(), 0777), 0);
  EXPECT_THROW((void)make(), Error);
  EXPECT_THROW((void)find(), Error);
  ASSERT_EQ(::chmod(run_.c_str(), 0700), 0);
  EXPECT_NO_THROW((void)make());
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(run_.c_str(), 65534, 65534), 0);
  EXPECT_THROW((void)make(), Error);
  EXPECT_THROW((void)find(), Error);
}

TEST_F(Pending, ADirectoryThatIsALinkOrNoneIsRefused) {
  EXPECT_EQ(find().state, State::nothing) << "no directory yet";
  fs::create_directory(directory_ / "other");
  fs::create_symlink(directory_ / "other", run_);
  EXPECT_THROW((void)make(), std::system_error);
  EXPECT_THROW((void)find(), std::system_error);
  EXPECT_TRUE(fs::is_empty(directory_ / "other"));
  fs::remove(run_);
  ASSERT_EQ(::mkfifo(run_.c_str(), 0600), 0);
  EXPECT_THROW((void)make(), std::system_error);
  EXPECT_THROW((void)find(), std::system_error);
}

TEST_F(Pending, OfALargeImageCostsWhatWasWritten) {
  static constexpr std::uint64_t tebibyte = std::uint64_t{1} << 40;
  fs::remove(pair_.cow);
  const auto header = tests::make_header({.backing_size = tebibyte}, pair_.backing.string());
  tests::make_empty_cow(*tests::make_file(pair_.cow), header);
  const auto found = description();
  const auto cow = open_cow_file();
  {
    auto pending = make();
    SectorMap map(*cow, found.layout, std::move(pending));
    for (const SectorNumber sector : {SectorNumber{0}, found.layout.sectors - 1}) {
      map.prepare(sector, 1);
      map.set(sector, 1);
    }
  }
  struct stat status {};
  ASSERT_EQ(::stat(file().c_str(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 64 << 10);
  EXPECT_EQ(find().sectors, 2U);
}

TEST_F(Pending, ManyWordsComeBack) {
  std::vector<SectorNumber> written;
  {
    const auto image = open_image();
    for (int i = 0; i < 500; ++i) {
      written.push_back(random_.between(0, pair_.layout.sectors - 1));
      image->write(written.back() * sector_bytes, Bytes(512, std::byte{7}));
    }
  }
  const auto cow = open_cow_file();
  (void)settle_left_behind(run_, *cow, description(), Access::read_write);
  for (const auto sector : written) ASSERT_TRUE(on_disk(sector)) << sector;
}

TEST_F(Pending, CanBeReadWhileBitsAreSet) {
  const auto image = open_image();
  std::vector<std::jthread> writers;
  for (unsigned id = 0; id < 3; ++id) {
    writers.emplace_back([&, id] {
      for (SectorNumber i = 0; i < 300; ++i) {
        image->write((i * 128 + id) * sector_bytes, Bytes(512, std::byte{7}));
      }
    });
  }
  SectorCount most = 0;
  for (int i = 0; i < 50; ++i) {
    const auto sectors = find().sectors;
    EXPECT_GE(sectors, most) << "none was settled";
    most = sectors;
  }
  writers.clear();
  EXPECT_EQ(find().sectors, 900U);
}

/// On a file system of a few pages.
class PendingOnFullDisk : public Pending {
 protected:
  void SetUp() override {
    fs::create_directory(run_);
    if (::mount("none", run_.c_str(), "tmpfs", MS_NOSUID, "size=32k,mode=0700") != 0) {
      GTEST_SKIP() << "only root can mount a tmpfs";
    }
    mounted_ = true;
  }
  ~PendingOnFullDisk() override {
    if (mounted_) ::umount2(run_.c_str(), MNT_DETACH);
  }

 private:
  bool mounted_ = false;
};

TEST_F(PendingOnFullDisk, IsAnErrorOfTheWriteThatNeedsRoom) {
  {
    const auto image = open_image();
    int written = 0;
    const auto fill = [&] {
      for (; written < 4; ++written) {  // each in another chunk, so in another page
        image->write(std::uint64_t(written) << 24, Bytes(512, std::byte{7}));
      }
    };
    tests::write_file(run_ / "other", Bytes(16384));
    try {
      fill();
      FAIL() << "no error";
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), ENOSPC);
    }
    EXPECT_GT(written, 0);
    EXPECT_FALSE(image->sectors().in_cow(SectorNumber(written) << 15));
    fs::remove(run_ / "other");
    fill();
  }
  EXPECT_EQ(find().sectors, 4U);
}

TEST_F(PendingOnFullDisk, NoRoomForTheFileLeavesNothing) {
  tests::write_file(run_ / "other", Bytes(28 << 10));
  EXPECT_THROW((void)make(), std::system_error);
  EXPECT_THAT(tests::names_in(run_), testing::ElementsAre("other"));
}

}  // namespace
}  // namespace cowfs::core
