// Disks that are full or fail, and limits: an error to the writer, never a changed sector, and
// never the end of a daemon.

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/integration/support/daemon.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/loop_disk.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int failed = 1;
constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

class Faults : public MountTest {
 protected:
  /// A COW on the disk at `disk` for a new backing elsewhere.
  [[nodiscard]] CowAndBacking make_cow_on(const fs::path& disk, std::uint64_t size) {
    auto files = make_files(size);
    files.cow = disk / "cow";
    const auto made = cowfs({"create", files.cow.string(), files.backing.string()});
    if (made.status != 0) throw std::runtime_error("cowfs create: " + made.err);
    return files;
  }

  /// Writes page after page, and expects each to be taken wholly or refused with `error`; returns
  /// how many were refused.
  int write_pages(const core::FileDescriptor& file, ImageModel& model, int expected_error) {
    int refused = 0;
    for (std::uint64_t offset = 0; offset + 4096 <= model.content().size(); offset += 4096) {
      const auto bytes = random().bytes(4096);
      const int error = error_of([&] { EXPECT_EQ(write_at(file, offset, bytes), 4096U); });
      if (error == 0) {
        auto content = model.content();
        std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(offset));
        model = ImageModel(std::move(content));
      } else {
        EXPECT_EQ(error, expected_error) << std::strerror(error);
        ++refused;
      }
    }
    return refused;
  }
};

// A full disk

TEST_F(Faults, AFullDiskRefusesWritesAndKeepsSectorsUntilThereIsSpace) {
  make_sparse_file(directory() / "disk", 16 * mebibyte);
  make_ext4(directory() / "disk");
  LoopDisk disk(directory() / "disk", directory() / "small");
  const auto files = make_cow_on(disk.point(), 4 * mebibyte);
  ImageModel model(files.content);
  {
    const auto mounted = mount_image(files.cow.string(), point(), {"-o", "commit=0"});
    const std::array handles{open_file(mounted.file(), O_RDWR),
                             open_file(mounted.file(), O_RDWR | O_DIRECT)};
    const auto worker = daemon_behind(handles[0]).worker;
    fill_disk(disk.point() / "ballast");
    for (const auto& handle : handles) {
      EXPECT_GT(write_pages(handle, model, ENOSPC), 0);
      ASSERT_NO_FATAL_FAILURE(model.check_all(handle));
      EXPECT_EQ(error_of([&] { allocate(handle, 0, 0, model.content().size()); }), ENOSPC);
      // What is acknowledged has its place.
      EXPECT_EQ(error_of([&] { sync_file(handle); }), 0);
    }
    // To discard takes no space for data.
    ASSERT_NO_FATAL_FAILURE(
        model.zero(handles[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, {0, 500'000}));
    ASSERT_NO_FATAL_FAILURE(model.check_all(handles[1]));
    fs::remove(disk.point() / "ballast");
    // The file system frees space when it commits.
    ::sync();
    for (const auto& handle : handles) {
      EXPECT_EQ(write_pages(handle, model, ENOSPC), 0);
      ASSERT_NO_FATAL_FAILURE(model.check_all(handle));
      EXPECT_EQ(error_of([&] { sync_file(handle); }), 0);
    }
    EXPECT_EQ(daemon_behind(handles[0]).worker, worker);
  }
  const auto again = mount_image(files.cow.string(), point());
  model.check_all(open_file(again.file(), O_RDONLY | O_DIRECT));
}

/// Fills the directory with files, each synced, until one fails; returns what is in those that did
/// not.
std::map<std::string, Bytes> fill_with_files(const fs::path& directory, TestRandom& random) {
  std::map<std::string, Bytes> written;
  for (int i = 0;; ++i) {
    const auto name = std::to_string(i);
    auto bytes = random.bytes(300'000);
    const int error = error_of([&] {
      const auto file = open_file(directory / name, O_WRONLY | O_CREAT);
      write_at(file, 0, bytes);
      sync_file(file);
    });
    if (error != 0) return written;
    written.emplace(name, std::move(bytes));
  }
}

TEST_F(Faults, AGuestsFileSystemOutlivesAFullDiskAndKeepsWhatItHasSynced) {
  make_sparse_file(directory() / "disk", 24 * mebibyte);
  make_ext4(directory() / "disk");
  LoopDisk disk(directory() / "disk", directory() / "small");
  make_sparse_file(directory() / "guest.backing", 64 * mebibyte);
  make_ext4(directory() / "guest.backing");
  const auto cow = (disk.point() / "cow").string();
  ASSERT_EQ(cowfs({"create", cow, (directory() / "guest.backing").string()}).status, 0);
  write_file(disk.point() / "ballast", std::string(8 * mebibyte, 'b'));
  {
    const auto mounted = mount_image(cow, point());
    std::map<std::string, Bytes> written;
    {
      LoopDisk guest(mounted.file(), directory() / "guest");
      written = fill_with_files(guest.point(), random());
      EXPECT_GT(written.size(), 5U);
      fs::remove(disk.point() / "ballast");
      ::sync();
    }
    {
      LoopDisk guest(mounted.file(), directory() / "guest");
      for (const auto& [name, bytes] : written) {
        EXPECT_TRUE(read_file(guest.point() / name) == bytes) << name;
      }
      const auto file = open_file(guest.point() / "after", O_WRONLY | O_CREAT);
      write_at(file, 0, random().bytes(300'000));
      sync_file(file);
    }
    const auto fsck = run({.command = {"e2fsck", "-fp", mounted.file().string()}});
    EXPECT_LE(fsck.status, 1) << fsck.out;
    const auto clean = run({.command = {"e2fsck", "-fn", mounted.file().string()}});
    EXPECT_EQ(clean.status, 0) << clean.out;
  }
}

// A disk that fails

/// An ext4 whose device has no room for what it promises: its image lies on a full tmpfs, so that
/// every block that is new there is an I/O error when it is written back.
class FailingDisk {
 public:
  explicit FailingDisk(const fs::path& directory)
      : directory_(directory), memory_(mount_memory(made(directory / "memory"), "size=8M")) {
    make_sparse_file(image(), 32 * mebibyte);
    make_ext4(image(), "-O ^has_journal -E lazy_itable_init=0,nodiscard");
    disk_.emplace(image(), directory / "failing");
  }

  [[nodiscard]] const fs::path& point() const { return disk_->point(); }
  /// All that is written from now on fails, unless it lies where something was before.
  void fail() const {
    ::sync();
    fill_disk(memory_.point() / "ballast");
  }
  void mend() const { fs::remove(memory_.point() / "ballast"); }

 private:
  static fs::path made(const fs::path& path) {
    fs::create_directory(path);
    return path;
  }
  [[nodiscard]] fs::path image() const { return memory_.point() / "image"; }

  fs::path directory_;
  TestMount memory_;
  std::optional<LoopDisk> disk_;
};

class FailedSync : public Faults, public ::testing::WithParamInterface<std::string> {};

TEST_P(FailedSync, IsToldUntilTheUserDecides) {
  FailingDisk disk(directory());
  const auto files = make_cow_on(disk.point(), 4 * mebibyte);
  std::optional<ForegroundMount> mount(std::in_place, files.cow.string(), point(),
                                       std::vector<std::string>{"-o", "commit=0"});
  {
    const auto file = open_file(mount->mounted().file(), O_RDWR);
    write_at(file, 0, random().bytes(4096));
    ASSERT_EQ(error_of([&] { sync_file(file); }), 0);
    disk.fail();
    write_at(file, 2 * mebibyte, random().bytes(mebibyte));
    // The first one says what the disk says.
    EXPECT_THAT(error_of([&] { sync_file(file); }), AnyOf(EIO, ENOSPC));
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(error_of([&] { sync_file(file); }), EIO);
      EXPECT_EQ(error_of([&] { sync_data(open_file(mount->mounted().file(), O_RDWR)); }), EIO);
    }
    EXPECT_EQ(error_of([&] { write_at(file, 0, Bytes(512)); }), EROFS);
    EXPECT_EQ(
        error_of([&] { allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096); }),
        EROFS);
    // A new worker knows too.
    WatchedProcess(daemon_behind(file).worker).signal(SIGKILL);
    EXPECT_EQ(error_of([&] { sync_file(file); }), EIO);
    EXPECT_EQ(error_of([&] { write_at(file, 0, Bytes(512)); }), EROFS);
    disk.mend();
    EXPECT_EQ(error_of([&] { sync_file(file); }), EIO);
  }
  EXPECT_THAT(mount->process().err(),
              AllOf(HasSubstr(files.cow.string()), HasSubstr("cannot flush")));
  const auto umount = cowfs({"umount", point().string()});
  EXPECT_EQ(umount.status, failed);
  EXPECT_THAT(umount.err, HasSubstr("not all writes are on disk"));
  EXPECT_NE(mount->process().wait().status, 0);
  mount.reset();

  const auto refused = cowfs({"mount", files.cow.string(), point().string()});
  EXPECT_EQ(refused.status, failed);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("a sync of the COW had failed"),
                                 HasSubstr("--apply-pending"), HasSubstr("--drop-pending")));
  const auto decided = cowfs({"check", GetParam(), files.cow.string()});
  EXPECT_EQ(decided.status, 0) << decided.err;
  const auto again = mount_image(files.cow.string(), point());
  const auto file = open_file(again.file(), O_RDWR);
  write_at(file, 0, random().bytes(4096));
  EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
}

INSTANTIATE_TEST_SUITE_P(, FailedSync, ::testing::Values("--apply-pending", "--drop-pending"),
                         [](const auto& test) {
                           return test.param == "--apply-pending" ? "Apply" : "Drop";
                         });

// Limits

TEST_F(Faults, ALimitOfFileSizesIsAnErrorAndNotTheEndOfTheWorker) {
  const auto files = make_files(4 * mebibyte);
  ImageModel model(files.content);
  {
    const auto limit = files.layout.data_offset + 2 * mebibyte;
    const auto mount =
        run({.command = {"prlimit", fmt::format("--fsize={}", limit), cowfs_program(), "mount",
                         files.cow.string(), point().string()}});
    ASSERT_EQ(mount.status, 0) << mount.err;
    const Mounted mounted(point());
    const auto file = open_file(mounted.file(), O_RDWR);
    const auto worker = daemon_behind(file).worker;
    EXPECT_GT(write_pages(file, model, EFBIG), 0);
    ASSERT_NO_FATAL_FAILURE(model.check_all(file));
    EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
    EXPECT_EQ(daemon_behind(file).worker, worker);
  }
  const auto again = mount_image(files.cow.string(), point());
  const auto file = open_file(again.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(model.check_all(file));
  EXPECT_EQ(write_pages(file, model, 0), 0);
}

TEST_F(Faults, WithFewFileDescriptorsItServesOrSaysWhyNot) {
  const auto files = make_files(mebibyte);
  ImageModel model(files.content);
  int served = 0;
  int refused = 0;
  for (int limit = 6; limit <= 24; ++limit) {
    SCOPED_TRACE(limit);
    const auto mount =
        run({.command = {"prlimit", fmt::format("--nofile={}", limit), cowfs_program(), "mount",
                         files.cow.string(), point().string()}});
    if (mount.status != 0) {
      ++refused;
      EXPECT_NE(mount.err, "");
      EXPECT_FALSE(is_mounted(point()));
      EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
      continue;
    }
    ++served;
    const Mounted mounted(point());
    const auto file = open_file(mounted.file(), O_RDWR);
    EXPECT_EQ(write_pages(file, model, 0), 0);
    WatchedProcess(daemon_behind(file).worker).signal(SIGKILL);
    ASSERT_NO_FATAL_FAILURE(model.check_all(file));
    EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(served, 0);
}

// A full run directory

class FullRunDirectory : public Faults {
 protected:
  /// Mounts a tmpfs of so many pages where the pending files are.
  [[nodiscard]] static TestMount mount_run_directory(int pages) {
    fs::create_directories("/run/cowfs");
    return mount_memory("/run/cowfs", fmt::format("size={}k,mode=0700", 4 * pages));
  }
};

TEST_F(FullRunDirectory, RefusesTheMountAndSaysWhy) {
  const auto files = make_files(mebibyte);
  for (int pages = 1; pages <= 2; ++pages) {
    const auto small = mount_run_directory(pages);
    const auto refused = cowfs({"mount", files.cow.string(), point().string()});
    EXPECT_EQ(refused.status, failed);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("no pending file"), HasSubstr("No space left"),
                                   HasSubstr("pending=off")));
    EXPECT_FALSE(is_mounted(point()));
    EXPECT_TRUE(fs::is_empty("/run/cowfs"));
    const auto mounted = mount_image(files.cow.string(), point(), {"-o", "pending=off"});
    EXPECT_EQ(error_of([&] { write_at(open_file(mounted.file(), O_WRONLY), 0, Bytes(512)); }), 0);
  }
}

TEST_F(FullRunDirectory, IsAnErrorToTheWriterAndNotTheEndOfTheWorker) {
  // Three pages for a start, and one for each 16 MiB that are written to.
  constexpr std::uint64_t part = 16 * mebibyte;
  const auto small = mount_run_directory(5);
  make_sparse_file(directory() / "large.backing", 8 * part);
  const auto cow = (directory() / "large.cow").string();
  ASSERT_EQ(cowfs({"create", cow, (directory() / "large.backing").string()}).status, 0);
  const auto mounted = mount_image(cow, point(), {"-o", "commit=0"});
  const auto file = open_file(mounted.file(), O_RDWR | O_DIRECT);
  const auto worker = daemon_behind(file).worker;
  const auto bytes = random().bytes(5000);
  int refused = 0;
  for (std::uint64_t i = 0; i < 8; ++i) {
    const int error = error_of([&] { write_at(file, i * part + 300, bytes); });
    EXPECT_THAT(error, AnyOf(0, ENOSPC));
    refused += error == 0 ? 0 : 1;
    EXPECT_TRUE(read_at(file, i * part + 300, 5000) == (error == 0 ? bytes : Bytes(5000)));
  }
  EXPECT_EQ(refused, 6);
  EXPECT_EQ(error_of([&] { sync_file(file); }), 0);
  EXPECT_EQ(daemon_behind(file).worker, worker);
  // There is room for more.
  ASSERT_EQ(::mount("none", "/run/cowfs", "tmpfs", MS_REMOUNT, "size=1M"), 0);
  for (std::uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(error_of([&] { write_at(file, i * part + 300, bytes); }), 0);
    EXPECT_TRUE(read_at(file, i * part + 300, 5000) == bytes);
  }
}

}  // namespace
}  // namespace cowfs::tests
