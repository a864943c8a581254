// What `cowfs mount` accepts, and what it changes by that: nothing, or the header's backing path.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <string>

#include "cowcore/cow_description.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/forked_process.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::HasSubstr;

constexpr std::uint64_t image_size = 1'000'000;

core::CowHeader header_of(const fs::path& cow) {
  return core::describe_cow(
             *core::PosixStorage::open(cow, core::Access::read_only, core::FileKinds::regular))
      .header;
}

class Opening : public MountTest {
 protected:
  Opening() : files_(make_files(image_size)) {}

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] std::string cow() const { return files_.cow.string(); }

  /// Writes something through a mount of its own, so that the COW is not empty.
  void write_something(ImageModel& model) {
    const auto mounted = mount_image(cow(), point());
    auto file = open_file(mounted.file(), O_RDWR);
    for (int i = 0; i < 20; ++i) {
      ASSERT_NO_FATAL_FAILURE(model.write(file, model.random_range(random(), 20'000), random()));
    }
    file = {};
    mounted.unmount();
  }

 private:
  CowAndBacking files_;
};

TEST_F(Opening, WithAMovedBackingGivenMakesTheHeaderNameItAndSaysSo) {
  ImageModel model(files().content);
  ASSERT_NO_FATAL_FAILURE(write_something(model));
  const auto moved = directory() / "moved";
  fs::rename(files().backing, moved);
  auto expected = header_of(files().cow);
  {
    const auto done = cowfs({"mount", cow() + "," + moved.string(), point().string()});
    ASSERT_EQ(done.status, 0) << done.err;
    const Mounted mounted(point());
    EXPECT_EQ(done.err, "cowfs: " + cow() + ": relocated from backing " + files().backing.string() +
                            " to " + moved.string() + "\n");
    EXPECT_EQ(done.out, "");
  }
  expected.backing_path = moved.string();
  EXPECT_EQ(header_of(files().cow), expected);
  const auto again = cowfs({"mount", cow(), point().string()});
  ASSERT_EQ(again.status, 0) << again.err;
  const Mounted mounted(point());
  EXPECT_EQ(again.err, "");
  model.check_all(open_file(mounted.file(), O_RDONLY));
}

TEST_F(Opening, RelocationKeepsLayoutAndContentOfOlderCows) {
  for (const auto& shape : every_layout(image_size / 4096 * 4096)) {
    SCOPED_TRACE(shape_name(shape));
    const auto where = directory() / shape_name(shape);
    fs::create_directory(where);
    const auto pair = make_pair_on_disk(where, shape, random());
    const auto moved = where / "moved";
    fs::rename(pair.backing, moved);
    ImageModel model(pair.content);
    {
      const auto mounted = mount_image(pair.cow.string() + "," + moved.string(), point());
      const auto file = open_file(mounted.file(), O_RDWR);
      for (int i = 0; i < 20; ++i) {
        ASSERT_NO_FATAL_FAILURE(model.write(file, model.random_range(random(), 20'000), random()));
      }
    }
    auto expected = pair.header;
    expected.backing_path = moved.string();
    EXPECT_EQ(header_of(pair.cow), expected);
    const auto mounted = mount_image(pair.cow.string(), point());
    model.check_all(open_file(mounted.file(), O_RDONLY));
  }
}

TEST_F(Opening, WithTheSameBackingByAnotherNameLeavesTheHeaderAlone) {
  fs::create_symlink(files().backing, directory() / "link");
  fs::create_hard_link(files().backing, directory() / "hard");
  const auto header_before = read_at(open_file(files().cow, O_RDONLY), 0, 8192);
  for (const auto& name : {"link", "hard", "image.backing"}) {
    const auto done =
        cowfs({"mount", cow() + "," + (directory() / name).string(), point().string()});
    ASSERT_EQ(done.status, 0) << done.err;
    const Mounted mounted(point());
    EXPECT_EQ(done.err, "");
  }
  EXPECT_EQ(read_at(open_file(files().cow, O_RDONLY), 0, 8192), header_before);
}

TEST_F(Opening, ReadOnlyWithAMovedBackingUsesItThisTimeAndChangesNothing) {
  const auto moved = directory() / "moved";
  fs::rename(files().backing, moved);
  const auto before = read_file(files().cow);
  const auto done = cowfs({"mount", "-o", "ro", cow() + "," + moved.string(), point().string()});
  ASSERT_EQ(done.status, 0) << done.err;
  const Mounted mounted(point());
  EXPECT_THAT(done.err, HasSubstr("this time"));
  ImageModel(files().content).check_all(open_file(mounted.file(), O_RDONLY));
  EXPECT_EQ(read_file(files().cow), before);
}

TEST_F(Opening, ABackingThatMayOnlyBeReadIsFine) {
  ASSERT_EQ(::chmod(files().backing.c_str(), 0444), 0);
  ImageModel model(files().content);
  ASSERT_NO_FATAL_FAILURE(write_something(model));
  const auto mounted = mount_image(cow(), point());
  model.check_all(open_file(mounted.file(), O_RDONLY));
}

TEST_F(Opening, TheBackingIsNotChanged) {
  const auto before = read_file(files().backing);
  const auto time_before = status_of(files().backing).st_mtim;
  ImageModel model(files().content);
  ASSERT_NO_FATAL_FAILURE(write_something(model));
  EXPECT_EQ(read_file(files().backing), before);
  const auto time_after = status_of(files().backing).st_mtim;
  EXPECT_EQ(time_after.tv_sec, time_before.tv_sec);
  EXPECT_EQ(time_after.tv_nsec, time_before.tv_nsec);
}

TEST_F(Opening, ReadOnlyRefusesEveryChangeAndLeavesTheCowUntouched) {
  ImageModel model(files().content);
  ASSERT_NO_FATAL_FAILURE(write_something(model));
  const auto bytes_before = read_file(files().cow);
  set_mtime(files().cow, 1'234'567'890);
  const auto change_before = status_of(files().cow).st_ctim;
  {
    const auto mounted = mount_image(cow(), point(), {"-o", "ro"});
    for (const int flags : {O_RDWR, O_WRONLY, O_RDWR | O_DIRECT, O_RDWR | O_TRUNC}) {
      EXPECT_EQ(error_of([&] { open_file(mounted.file(), flags); }), EROFS) << flags;
    }
    EXPECT_EQ(::truncate(mounted.file().c_str(), 0), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(status_of(mounted.file()).st_mode & 0222U, 0U);
    struct statvfs space {};
    ASSERT_EQ(::statvfs(mounted.file().c_str(), &space), 0);
    EXPECT_NE(space.f_flag & ST_RDONLY, 0U);
    auto file = open_file(mounted.file(), O_RDONLY);
    EXPECT_EQ(error_of([&] { allocate(file, 0, 0, 512); }), EBADF);
    model.check_all(file);
    sync_file(file);
    file = {};
    mounted.unmount();
  }
  EXPECT_EQ(read_file(files().cow), bytes_before);
  EXPECT_EQ(status_of(files().cow).st_mtim.tv_sec, 1'234'567'890);
  EXPECT_EQ(status_of(files().cow).st_ctim.tv_sec, change_before.tv_sec);
  EXPECT_EQ(status_of(files().cow).st_ctim.tv_nsec, change_before.tv_nsec);
}

TEST_F(Opening, OneCowMayBeMountedReadOnlyTwiceAndOneBackingServeTwoCows) {
  fs::create_directory(directory() / "dir");
  {
    const auto first = mount_image(cow(), point(), {"-o", "ro"});
    const auto second = mount_image(cow(), directory() / "dir", {"-o", "ro"});
    const ImageModel model(files().content);
    model.check_all(open_file(first.file(), O_RDONLY));
    model.check_all(open_file(second.file(), O_RDONLY));
  }
  const auto other = directory() / "other.cow";
  ASSERT_EQ(cowfs({"create", other.string(), files().backing.string()}).status, 0);
  const auto first = mount_image(cow(), point());
  const auto second = mount_image(other.string(), directory() / "dir");
  ImageModel first_model(files().content);
  ImageModel second_model(files().content);
  const auto first_file = open_file(first.file(), O_RDWR);
  const auto second_file = open_file(second.file(), O_RDWR);
  for (int i = 0; i < 50; ++i) {
    const auto range = first_model.random_range(random(), 9000);
    ASSERT_NO_FATAL_FAILURE(first_model.write(first_file, range, random()));
    ASSERT_NO_FATAL_FAILURE(second_model.write(second_file, range, random()));
  }
  first_model.check_all(first_file);
  second_model.check_all(second_file);
}

TEST_F(Opening, AMountKeepsOthersFromTheCowAndFromWritingTheBacking) {
  const auto cow_path = cow();
  const auto backing_path = files().backing.string();
  const auto may_lock = [](const std::string& path, short kind) {
    return ForkedProcess([&] { return take_process_lock(path.c_str(), kind); }).succeeded();
  };
  {
    const auto mounted = mount_image(cow_path, point());
    EXPECT_FALSE(may_lock(cow_path, F_RDLCK));
    EXPECT_FALSE(may_lock(cow_path, F_WRLCK));
    EXPECT_TRUE(may_lock(backing_path, F_RDLCK));
    EXPECT_FALSE(may_lock(backing_path, F_WRLCK));
  }
  {
    const auto mounted = mount_image(cow_path, point(), {"-o", "ro"});
    EXPECT_TRUE(may_lock(cow_path, F_RDLCK));
    EXPECT_FALSE(may_lock(cow_path, F_WRLCK));
  }
  EXPECT_TRUE(may_lock(cow_path, F_WRLCK));
  EXPECT_TRUE(may_lock(backing_path, F_WRLCK));
}

TEST_F(Opening, ABackingThatIsItselfACowIsRawBytes) {
  // A guest that writes a COW header into its own disk must not make the host follow it.
  const auto outer = directory() / "outer.cow";
  ASSERT_EQ(cowfs({"create", outer.string(), files().cow.string()}).status, 0);
  auto raw = read_file(files().cow);
  const auto mounted = mount_image(outer.string(), point());
  ImageModel(padded(raw)).check_all(open_file(mounted.file(), O_RDONLY));
}

TEST_F(Opening, LaterOptionsWin) {
  const auto mounted = mount_image(cow(), point(), {"-o", "ro,threads=1", "-o", "rw,commit=0"});
  EXPECT_EQ(error_of([&] { open_file(mounted.file(), O_RDWR); }), 0);
}

}  // namespace
}  // namespace cowfs::tests
