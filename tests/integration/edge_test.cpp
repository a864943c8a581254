// What no reasonable program does: offsets at the end of the world, mounts in odd places, a backing
// that changes, COWs made to deceive. Nothing hangs, nothing is changed by it.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <limits>
#include <string>
#include <vector>

#include "tests/integration/support/daemon.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr std::uint64_t image_size = 1'000'000;
constexpr int failed = 1;
constexpr int backing_mismatch = 3;
constexpr int in_use = 5;

class Edge : public MountTest {
 protected:
  Edge() : files_(make_files(image_size)), model_(files_.content) {
    fs::create_directory(directory() / "dir");
  }

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] std::string cow() const { return files_.cow.string(); }
  [[nodiscard]] ImageModel& model() { return model_; }
  void write_and_check(const core::FileDescriptor& file) {
    ASSERT_NO_FATAL_FAILURE(model_.write(file, {300'000, 5000}, random()));
    ASSERT_NO_FATAL_FAILURE(model_.check_all(file));
  }

 private:
  CowAndBacking files_;
  ImageModel model_;
};

// Offsets and lengths

TEST_F(Edge, OffsetsUpToTheLargestReadNothingAndAreNotWritten) {
  const auto mounted = mount_image(cow(), point());
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  const auto size = files().size();
  for (const int flags : {0, O_DIRECT}) {
    const auto file = open_file(mounted.file(), O_RDWR | flags);
    for (const auto offset : {size, size + 1, size + 4096, largest / 2, largest - 100'000,
                              largest - 4096, largest - 1, largest}) {
      SCOPED_TRACE(offset);
      // The kernel refuses a range whose end is no offset.
      const int error = error_of([&] { EXPECT_TRUE(read_at(file, offset, 512).empty()); });
      EXPECT_EQ(error, offset > largest - 512 ? EINVAL : 0);
      EXPECT_THAT(error_of([&] { write_at(file, offset, Bytes(512)); }),
                  AnyOf(ENOSPC, EFBIG, EINVAL));
      for (const int whence : {SEEK_DATA, SEEK_HOLE}) {
        EXPECT_EQ(error_of([&] { seek(file, offset, whence); }), ENXIO);
      }
    }
    for (const auto offset : {largest + 1, ~std::uint64_t{0}}) {  // negative
      SCOPED_TRACE(offset);
      EXPECT_EQ(error_of([&] { read_at(file, offset, 512); }), EINVAL);
      EXPECT_EQ(error_of([&] { write_at(file, offset, Bytes(512)); }), EINVAL);
      EXPECT_EQ(error_of([&] { allocate(file, 0, offset, 512); }), EINVAL);
      EXPECT_EQ(error_of([&] { seek(file, offset, SEEK_DATA); }), ENXIO);
    }
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  }
}

TEST_F(Edge, FallocateOfHugeOrNoLengths) {
  const auto mounted = mount_image(cow(), point());
  const auto file = open_file(mounted.file(), O_RDWR);
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  const auto size = files().size();
  constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  for (const int mode : {0, FALLOC_FL_KEEP_SIZE + 0, punch, FALLOC_FL_ZERO_RANGE + 0,
                         FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}) {
    SCOPED_TRACE(mode);
    EXPECT_EQ(error_of([&] { allocate(file, mode, 0, 0); }), EINVAL);
    EXPECT_EQ(error_of([&] { allocate(file, mode, 0, ~std::uint64_t{0}); }), EINVAL);
    EXPECT_EQ(error_of([&] { allocate(file, mode, largest, largest); }), EFBIG);
    const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    for (const auto& range :
         {Range{size, 1}, Range{size - 1, 2}, Range{size + 512, 1 << 30}, Range{largest - 1, 1}}) {
      const auto error = error_of([&] { allocate(file, mode, range.offset, range.length); });
      if (keeps_size && range.offset < size) {
        EXPECT_EQ(error, 0) << range.offset;
        if (mode != FALLOC_FL_KEEP_SIZE) model().zero(file, mode, range);
      } else {
        EXPECT_THAT(error, keeps_size ? AnyOf(0, EFBIG) : AnyOf(ENOSPC, EFBIG)) << range.offset;
      }
    }
  }
  ASSERT_NO_FATAL_FAILURE(model().check_all(file));
  // Nearly 2^63 bytes from 0 on are the whole image.
  ASSERT_NO_FATAL_FAILURE(model().zero(file, punch, {0, largest}));
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  EXPECT_EQ(static_cast<std::size_t>(status_of(file).st_size), size);
}

// Odd places

TEST_F(Edge, AMountPointInUseByOthersCanBeMountedOn) {
  // As with every file system: what was open stays what it was.
  write_file(point(), std::string("what was here"));
  const auto before = open_file(point(), O_RDONLY);
  const auto user = open_file(directory() / "dir", O_RDONLY | O_DIRECTORY);
  {
    const auto mounted = mount_image(cow(), point());
    EXPECT_EQ(read_at(before, 0, 100).size(), 13U);
    ASSERT_NO_FATAL_FAILURE(write_and_check(open_file(mounted.file(), O_RDWR)));
  }
  const auto mounted = mount_image(cow(), directory() / "dir");
  ASSERT_NO_FATAL_FAILURE(write_and_check(open_file(mounted.file(), O_RDWR)));
}

TEST_F(Edge, AMountOnTopOfABusyMountHidesItAndLeavesItAlone) {
  const auto other_files = make_files(image_size, "other");
  for (const auto& where : {point(), directory() / "dir"}) {
    const auto lower = mount_image(cow(), where);
    const auto file = open_file(lower.file(), O_RDWR);
    ASSERT_EQ(cowfs({"mount", other_files.cow.string(), where.string()}).status, 0);
    ASSERT_NO_FATAL_FAILURE(
        ImageModel(other_files.content).check_all(open_file(lower.file(), O_RDONLY)));
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
    ASSERT_EQ(cowfs({"umount", where.string()}).status, 0);
    ASSERT_NO_FATAL_FAILURE(write_and_check(open_file(lower.file(), O_RDWR)));
  }
}

TEST_F(Edge, TheCowOrTheBackingMayBeTheMountPoint) {
  for (const auto& where : {files().cow, files().backing}) {
    SCOPED_TRACE(where);
    const auto before = read_file(files().backing);
    {
      const auto mounted = mount_image(cow(), where);
      const auto file = open_file(mounted.file(), O_RDWR);
      ASSERT_NO_FATAL_FAILURE(write_and_check(file));
      WorkerKiller(mounted.daemon().pid(), random()).kill_one();
      ASSERT_NO_FATAL_FAILURE(write_and_check(file));
    }
    EXPECT_TRUE(read_file(files().backing) == before);
    const auto mounted = mount_image(cow(), point());
    ASSERT_NO_FATAL_FAILURE(model().check_all(open_file(mounted.file(), O_RDONLY)));
  }
}

TEST_F(Edge, AMountedImageCanBeTheBackingOfAnotherCow) {
  const auto lower = mount_image(cow(), point(), {"-o", "ro"});
  const auto upper_cow = (directory() / "upper.cow").string();
  ASSERT_EQ(cowfs({"create", upper_cow, lower.file().string()}).status, 0);
  const auto upper = mount_image(upper_cow, directory() / "dir");
  ASSERT_NO_FATAL_FAILURE(write_and_check(open_file(upper.file(), O_RDWR)));
}

TEST_F(Edge, AMountPointThatVanishesEndsTheMountInPeace) {
  const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
  {
    const auto file = open_file(mounted.file(), O_RDWR);
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
    // Whoever does not see the mount may remove what is below it.
    const auto removed = run({.command = {"unshare", "--mount", "sh", "-c",
                                          "umount \"$1\" && rm \"$1\"", "sh", point().string()}});
    ASSERT_EQ(removed.status, 0) << removed.err;
    EXPECT_FALSE(is_mounted(point()));
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  }
  EXPECT_TRUE(mounted.daemon().wait_for_end());
  const auto again = mount_image(cow(), directory() / "dir");
  model().check_all(open_file(again.file(), O_RDONLY));
}

// A backing that changes

class EdgeOfBackingChange : public Edge, public ::testing::WithParamInterface<std::string> {
 protected:
  void change_backing() const {
    if (GetParam() == "Touched") {
      set_mtime(files().backing, 1'000'000'000);
    } else {
      const auto size = GetParam() == "Appended" ? image_size + 1000 : image_size - 100'000;
      ASSERT_EQ(::truncate(files().backing.c_str(), static_cast<off_t>(size)), 0);
    }
  }
};

TEST_P(EdgeOfBackingChange, MakesTheImageReadOnlyAndSaysSo) {
  ForegroundMount mount(cow(), point(), {"-o", "commit=1"});
  const auto file = open_file(mount.mounted().file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  const auto worker = daemon_behind(file).worker;
  ASSERT_NO_FATAL_FAILURE(change_backing());
  // Found by the timer.
  const auto noticed = [&] { return error_of([&] { write_at(file, 0, Bytes(512)); }) == EROFS; };
  EXPECT_TRUE(eventually(noticed));
  EXPECT_THAT(mount.process().err(),
              AllOf(HasSubstr(files().backing.string() + ": the backing changed under the mount"),
                    HasSubstr("read-only from now on"),
                    HasSubstr(GetParam() == "Touched" ? "it was written at" : "its size was")));
  // What was written before is not lost; what is gone of the backing is an error.
  EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
  ASSERT_NO_FATAL_FAILURE(model().check_read(file, {300'000, 5000}));
  if (GetParam() == "Truncated") {
    const auto direct = open_file(mount.mounted().file(), O_RDONLY | O_DIRECT);
    EXPECT_EQ(error_of([&] { read_at(direct, image_size - 50'000, 512); }), EIO);
  }
  EXPECT_EQ(daemon_behind(file).worker, worker);
}

TEST_P(EdgeOfBackingChange, IsOnlyToldWithTheOptionWarn) {
  ForegroundMount mount(cow(), point(), {"-o", "commit=0,backing-change=warn"});
  const auto file = open_file(mount.mounted().file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(change_backing());
  EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
  EXPECT_THAT(mount.process().err(), HasSubstr(": the backing changed under the mount"));
  EXPECT_THAT(mount.process().err(), ::testing::Not(HasSubstr("read-only")));
  ASSERT_NO_FATAL_FAILURE(model().write(file, {300'000, 5000}, random()));
  // What is gone of a backing can't be read.
  if (GetParam() != "Truncated") {
    ASSERT_NO_FATAL_FAILURE(model().check_all(file));
  }
}

INSTANTIATE_TEST_SUITE_P(, EdgeOfBackingChange,
                         ::testing::Values("Appended", "Touched", "Truncated"),
                         [](const auto& test) { return test.param; });

// COWs made to deceive

class HostileCow : public MountTest {
 protected:
  static constexpr uid_t owner = 65534;

  HostileCow() : disk_(mount_memory("/mnt", "mode=0755")) {
    write_file("/mnt/merged", std::string());
    fs::create_directory("/mnt/theirs");
    EXPECT_EQ(::chown("/mnt/theirs", owner, owner), 0);
  }

  /// Makes a COW that names `backing`, as its owner could write it; the size and time are right if
  /// there is such a file.
  static std::string make_cow(const std::string& backing, uid_t user = owner) {
    const std::string path = "/mnt/theirs/cow";
    fs::remove(path);
    auto header = make_header({.backing_size = 4096}, backing);
    struct stat found {};
    if (::stat(backing.c_str(), &found) == 0) {
      header.backing_size = static_cast<std::uint64_t>(found.st_size);
      header.backing_mtime = static_cast<std::uint32_t>(found.st_mtim.tv_sec);
    }
    make_empty_cow(*make_file(path), header);
    EXPECT_EQ(::chown(path.c_str(), user, user), 0);
    return path;
  }
  static void expect_refused(const std::string& image, const std::string& why) {
    for (const std::string options : {"rw", "ro"}) {
      const auto outcome = cowfs({"mount", "-o", options, image, "/mnt/merged"});
      EXPECT_THAT(outcome.status, AnyOf(failed, backing_mismatch)) << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr(why));
      EXPECT_FALSE(is_mounted("/mnt/merged"));
      EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
    }
  }

 private:
  TestMount disk_;
};

TEST_F(HostileCow, DoesNotShowWhatItsOwnerMayNotRead) {
  ASSERT_EQ(::chmod("/etc/shadow", status_of("/etc/shadow").st_mode & 07777U), 0);
  expect_refused(make_cow("/etc/shadow"), "cannot open its backing /etc/shadow as user 65534");

  const std::string secret = "/mnt/secret";
  write_file(secret, std::string(8192, 's'));
  ASSERT_EQ(::chmod(secret.c_str(), 0600), 0);
  expect_refused(make_cow(secret), "Permission denied");
  fs::create_symlink(secret, "/mnt/theirs/link");
  expect_refused(make_cow("/mnt/theirs/link"), "Permission denied");

  fs::create_directory("/mnt/private");
  write_file("/mnt/private/file", std::string(8192, 'p'));
  ASSERT_EQ(::chmod("/mnt/private/file", 0644), 0);
  ASSERT_EQ(::chmod("/mnt/private", 0700), 0);
  expect_refused(make_cow("/mnt/private/file"), "Permission denied");
  fs::create_symlink("/mnt/private/file", "/mnt/theirs/into");
  expect_refused(make_cow("/mnt/theirs/into"), "Permission denied");
}

TEST_F(HostileCow, IsMountedIfTheBackingIsGivenOrItsOwnerMayReadIt) {
  const std::string secret = "/mnt/secret";
  write_file(secret, std::string(8192, 's'));
  ASSERT_EQ(::chmod(secret.c_str(), 0600), 0);
  const auto cow = make_cow(secret);
  {
    const auto mounted = mount_image(cow + "," + secret, "/mnt/merged");
    EXPECT_EQ(read_file(mounted.file()), read_file(secret));
  }
  ASSERT_EQ(::chmod(secret.c_str(), 0604), 0);
  const auto mounted = mount_image(cow, "/mnt/merged");
  EXPECT_EQ(read_file(mounted.file()), read_file(secret));
}

TEST_F(HostileCow, ThatNamesFilesOfTheKernelOrDevicesOrFifosIsRefusedAtOnce) {
  ASSERT_EQ(::mkfifo("/mnt/theirs/fifo", 0666), 0);
  for (const uid_t user : {owner, uid_t{0}}) {
    for (const std::string backing :
         {"/proc/self/environ", "/proc/version", "/proc/kmsg", "/proc/self/mem", "/proc/self/fd/0",
          "/sys/kernel/mm/transparent_hugepage/enabled", "/dev/zero", "/dev/null", "/dev/tty",
          "/dev/fuse", "/dev/stdin", "/mnt/theirs/fifo", "/mnt/theirs", "/", "/nowhere/at/all"}) {
      SCOPED_TRACE(backing);
      expect_refused(make_cow(backing, user), "");
    }
  }
}

TEST_F(HostileCow, ThatNamesItselfOrItsOwnMountOrAWorkingDirectoryIsRefused) {
  expect_refused(make_cow("/mnt/theirs/cow"), "");
  fs::create_hard_link(make_cow("/mnt/theirs/other-name"), "/mnt/theirs/other-name");
  expect_refused("/mnt/theirs/cow", "names itself as its backing");
  fs::remove("/mnt/theirs/other-name");
  expect_refused(make_cow("."), "is a directory");
  expect_refused(make_cow("backing"), "cannot open its backing");
  expect_refused(make_cow("../../etc/shadow"), "cannot open its backing");

  // A COW in use that is given its own mount as the backing.
  write_file("/mnt/theirs/backing", std::string(8192, 'b'));
  const auto cow = make_cow("/mnt/theirs/backing");
  const auto mounted = mount_image(cow, "/mnt/merged", {"-o", "allow_other"});
  fs::create_directory("/mnt/theirs/dir");
  const auto refused = cowfs({"mount", cow + ",/mnt/merged", "/mnt/theirs/dir"});
  EXPECT_EQ(refused.status, in_use);
}

}  // namespace
}  // namespace cowfs::tests
