// What the mount shows besides the content: names, and attributes that can't be changed.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

constexpr std::uint64_t image_size = 100'000;

/// The errno of a system call that returns -1 when it fails; 0 if it did not.
int error_of_call(int result) { return result == 0 ? 0 : errno; }

class Names : public MountTest {
 protected:
  Names() : files_(make_files(image_size)) { fs::create_directory(directory() / "dir"); }

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] Mounted mount_on(const fs::path& where) {
    return mount_image(files_.cow.string(), where);
  }
  [[nodiscard]] Mounted mount_on_directory() { return mount_on(directory() / "dir"); }
  /// Both forms in turn.
  [[nodiscard]] std::vector<fs::path> both_forms() const { return {point(), directory() / "dir"}; }

 private:
  CowAndBacking files_;
};

TEST_F(Names, AFileShowsTheImageInItsPlaceAndItsOwnContentAgainAfterwards) {
  write_file(point(), std::string("my own"));
  {
    const auto mounted = mount_on(point());
    EXPECT_TRUE(S_ISREG(status_of(point()).st_mode));
    ImageModel(files().content).check_all(open_file(point(), O_RDONLY));
    mounted.unmount();
  }
  EXPECT_EQ(read_file(point()).size(), 6U);
}

TEST_F(Names, ADirectoryShowsExactlyDiskAndItsOwnFilesAgainAfterwards) {
  write_file(directory() / "dir" / "own", std::string("my own"));
  {
    const auto mounted = mount_on_directory();
    EXPECT_TRUE(S_ISDIR(status_of(mounted.point()).st_mode));
    EXPECT_THAT(names_in(mounted.point()), ::testing::ElementsAre("disk"));
    const auto listed = run({.command = {"ls", "-a", mounted.point().string()}});
    EXPECT_EQ(listed.out, ".\n..\ndisk\n");
    ImageModel(files().content).check_all(open_file(mounted.point() / "disk", O_RDONLY));
    EXPECT_EQ(error_of([&] { open_file(mounted.point() / "own", O_RDONLY); }), ENOENT);
    mounted.unmount();
  }
  EXPECT_THAT(names_in(directory() / "dir"), ::testing::ElementsAre("own"));
}

TEST_F(Names, NoNameCanBeMadeOrRemovedOrMoved) {
  const auto mounted = mount_on_directory();
  const auto disk = mounted.point() / "disk";
  const auto other = mounted.point() / "other";
  EXPECT_EQ(error_of([&] { open_file(other, O_RDWR | O_CREAT); }), EPERM);
  EXPECT_EQ(error_of_call(::mknod(other.c_str(), S_IFREG | 0644, 0)), EPERM);
  EXPECT_EQ(error_of_call(::mkfifo(other.c_str(), 0644)), EPERM);
  EXPECT_EQ(error_of_call(::mkdir(other.c_str(), 0755)), EPERM);
  EXPECT_EQ(error_of_call(::symlink("disk", other.c_str())), EPERM);
  EXPECT_EQ(error_of_call(::link(disk.c_str(), other.c_str())), EPERM);
  EXPECT_EQ(error_of_call(::rename(disk.c_str(), other.c_str())), EPERM);
  EXPECT_EQ(error_of_call(::unlink(disk.c_str())), EPERM);
  EXPECT_THAT(names_in(mounted.point()), ::testing::ElementsAre("disk"));
}

TEST_F(Names, ModeOwnerAndTimesCannotBeChanged) {
  for (const auto& where : both_forms()) {
    const auto mounted = mount_on(where);
    for (const auto& path : {mounted.point(), mounted.file()}) {
      SCOPED_TRACE(path);
      const auto before = status_of(path);
      EXPECT_EQ(error_of_call(::chmod(path.c_str(), 0777)), EPERM);
      EXPECT_EQ(error_of_call(::chown(path.c_str(), 1, 1)), EPERM);
      EXPECT_EQ(error_of_call(::utimes(path.c_str(), nullptr)), EPERM);
      const timespec times[] = {{1, 0}, {1, 0}};
      EXPECT_EQ(error_of_call(::utimensat(AT_FDCWD, path.c_str(), times, 0)), EPERM);
      const auto after = status_of(path);
      EXPECT_EQ(after.st_mode, before.st_mode);
      EXPECT_EQ(after.st_uid, before.st_uid);
      EXPECT_EQ(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
    }
  }
}

TEST_F(Names, ModeOwnerAndTimeAreThoseOfTheCow) {
  ASSERT_EQ(::chmod(files().cow.c_str(), 0640), 0);
  ASSERT_EQ(::chown(files().cow.c_str(), 1234, 4321), 0);
  set_mtime(files().cow, 1'234'567'890);
  for (const auto& where : both_forms()) {
    const auto mounted = mount_on(where);
    const auto status = status_of(mounted.file());
    EXPECT_EQ(status.st_mode, static_cast<mode_t>(S_IFREG | 0640));
    EXPECT_EQ(status.st_uid, 1234U);
    EXPECT_EQ(status.st_gid, 4321U);
    EXPECT_EQ(status.st_mtim.tv_sec, 1'234'567'890);
  }
}

TEST_F(Names, AWriteShowsInTheModificationTime) {
  set_mtime(files().cow, 1'234'567'890);
  const auto mounted = mount_on(point());
  EXPECT_EQ(status_of(point()).st_mtim.tv_sec, 1'234'567'890);
  write_at(open_file(point(), O_WRONLY), 0, Bytes(512));
  EXPECT_GT(status_of(point()).st_mtim.tv_sec, 1'600'000'000);
}

TEST_F(Names, TruncationToTheSameSizeSucceedsAndToAnotherIsRefused) {
  const auto size = static_cast<off_t>(files().size());
  for (const auto& where : both_forms()) {
    const auto mounted = mount_on(where);
    const auto file = open_file(mounted.file(), O_RDWR);
    EXPECT_EQ(error_of_call(::truncate(mounted.file().c_str(), size)), 0);
    EXPECT_EQ(error_of_call(::ftruncate(file.get(), size)), 0);
    for (const off_t other : {off_t{0}, size - 1, size + 1, 2 * size}) {
      EXPECT_EQ(error_of_call(::truncate(mounted.file().c_str(), other)), EPERM) << other;
      EXPECT_EQ(error_of_call(::ftruncate(file.get(), other)), EPERM) << other;
      EXPECT_EQ(status_of(file).st_size, size);
    }
    ImageModel(files().content).check_all(file);
  }
}

TEST_F(Names, AnOpenThatTruncatesIsRefusedAndLeavesSizeAndContent) {
  for (const auto& where : both_forms()) {
    const auto mounted = mount_on(where);
    for (const int flags : {O_TRUNC, O_TRUNC | O_CREAT, O_TRUNC | O_DIRECT}) {
      EXPECT_EQ(error_of([&] { open_file(mounted.file(), O_RDWR | flags); }), EPERM) << flags;
      EXPECT_EQ(static_cast<std::size_t>(status_of(mounted.file()).st_size), files().size());
    }
    const auto file = open_file(mounted.file(), O_RDONLY);
    ImageModel(files().content).check_all(file);
  }
}

class NamesOfManyKinds : public MountTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(NamesOfManyKinds, AreServedInBothForms) {
  const auto odd = directory() / GetParam();
  fs::create_directories(odd / "dir");
  write_file(odd / "file", std::string());
  // The COW's name ends at the first comma: that is the one thing it can't have.
  const bool has_comma = GetParam().find(',') != std::string::npos;
  const auto where = has_comma ? directory() : odd;
  const auto files =
      make_cow_and_backing(where, image_size, random(), has_comma ? "cow" : GetParam());
  const auto moved = odd / ("moved " + GetParam());
  fs::rename(files.backing, moved);
  for (const auto& point : {odd / "dir", odd / "file"}) {
    const auto mounted = mount_image(files.cow.string() + "," + moved.string(), point);
    EXPECT_THAT(cowfs_mount_points(), ::testing::ElementsAre(point.string()));
    ImageModel(files.content).check_all(open_file(mounted.file(), O_RDONLY));
    mounted.unmount();
    EXPECT_FALSE(is_mounted(point));
  }
}

INSTANTIATE_TEST_SUITE_P(, NamesOfManyKinds,
                         ::testing::Values("two words", "a,b", ",", "back\\slash", "back\\\\slash",
                                           "octal\\040",
                                           "Gr\xc3\xb6\xc3\x9f"
                                           "e \xe6\x97\xa5",
                                           "not\xffutf8", "line\nbreak", "-o", "'\"$(x)`"),
                         [](const auto& test) { return "Kind" + std::to_string(test.index); });

TEST_F(Names, ARelativeNameIsThatOfTheCallersDirectory) {
  fs::create_directories(directory() / "a");
  fs::create_directories(directory() / "b");
  const auto mounted_from = directory() / "a";
  const auto done = run(
      {.command = {cowfs_program(), "mount", "../image.cow", "../b"}, .directory = mounted_from});
  ASSERT_EQ(done.status, 0) << done.err;
  const Mounted mounted(directory() / "b");
  ImageModel(files().content).check_all(open_file(mounted.file(), O_RDONLY));
  const auto undone =
      run({.command = {cowfs_program(), "umount", "../b"}, .directory = mounted_from});
  EXPECT_EQ(undone.status, 0) << undone.err;
  EXPECT_FALSE(is_mounted(directory() / "b"));
}

TEST_F(Names, ASymbolicLinkToAMountPointIsFollowed) {
  fs::create_symlink(directory() / "dir", directory() / "link");
  const auto done = cowfs({"mount", files().cow.string(), (directory() / "link").string()});
  ASSERT_EQ(done.status, 0) << done.err;
  const Mounted mounted(directory() / "dir");
  ImageModel(files().content).check_all(open_file(directory() / "link" / "disk", O_RDONLY));
  EXPECT_EQ(cowfs({"umount", (directory() / "link").string()}).status, 0);
  EXPECT_FALSE(is_mounted(mounted.point()));
}

}  // namespace
}  // namespace cowfs::tests
