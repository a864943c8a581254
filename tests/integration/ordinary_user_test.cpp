// A user without privileges mounts and unmounts, through fusermount3.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint64_t image_size = 1'000'000;
constexpr uid_t user = 65534;
constexpr uid_t other_user = 65533;

class OrdinaryUser : public MountTest {
 protected:
  OrdinaryUser() : home_disk_(mount_memory("/mnt", "mode=0755")), home_("/mnt/home") {
    // The build tree may be where only root may go.
    fs::create_directory(home_);
    program_ = home_ / "cowfs";
    const auto program = read_file(cowfs_program());
    write_file(program_, std::span(program));
    EXPECT_EQ(::chmod(program_.c_str(), 0755), 0);
    fs::create_directory(home_ / "dir");
    write_file(home_ / "merged", std::string());
    files_ = make_cow_and_backing(home_, image_size, random());
    write_file(home_ / "expected", std::span(files_.content));
    fs::create_directory(home_ / "run");
    for (const auto* name : {"", "dir", "merged", "image.cow", "run"}) {
      EXPECT_EQ(::chown((home_ / name).c_str(), user, user), 0);
    }
    EXPECT_EQ(::chmod(files_.backing.c_str(), 0444), 0);
  }

  [[nodiscard]] const fs::path& home() const { return home_; }
  [[nodiscard]] const CowAndBacking& files() const { return files_; }

  [[nodiscard]] Outcome run_as(uid_t id, const std::vector<std::string>& command) const {
    // What a login gives.
    return run({.command = command,
                .user = id,
                .directory = home_,
                .variables = {"XDG_RUNTIME_DIR=" + (home_ / "run").string()}});
  }
  [[nodiscard]] Outcome cowfs_as(uid_t id, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), program_.string());
    return run_as(id, arguments);
  }
  /// The one daemon there is: a mount of another user can't be asked. Of its processes it is the
  /// one that leads their session.
  [[nodiscard]] Mounted mounted_by_user(const fs::path& point) const {
    for (const auto pid : cowfs_processes()) {
      if (::getsid(pid) == pid) return {point, pid};
    }
    throw std::runtime_error("no daemon");
  }
  void expect_refused(const Outcome& outcome, int status,
                      const ::testing::Matcher<std::string>& message) const {
    EXPECT_EQ(outcome.status, status);
    EXPECT_THAT(outcome.err, AllOf(StartsWith("cowfs: "), message));
    EXPECT_THAT(cowfs_mount_points(), ::testing::IsEmpty());
    EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
  }

 private:
  TestMount home_disk_;
  fs::path home_;
  fs::path program_;
  CowAndBacking files_;
};

TEST_F(OrdinaryUser, MountsReadsWritesAndUnmountsInBothForms) {
  const auto device = mount_fuse_device(0666);
  for (const auto& point : {home() / "merged", home() / "dir"}) {
    SCOPED_TRACE(point);
    const auto done = cowfs_as(user, {"mount", files().cow.string(), point.string()});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_EQ(done.err, "");
    const auto mounted = mounted_by_user(point);
    const auto file = point == home() / "dir" ? point / "disk" : point;
    const auto same = run_as(user, {"cmp", file.string(), (home() / "expected").string()});
    EXPECT_EQ(same.status, 0) << same.out << same.err;
    const auto write = run_as(user, {"dd", "if=" + (home() / "expected").string(),
                                     "of=" + file.string(), "conv=notrunc", "bs=4096", "count=1"});
    EXPECT_EQ(write.status, 0) << write.err;
    const auto unmounted = cowfs_as(user, {"umount", point.string()});
    EXPECT_EQ(unmounted.status, 0) << unmounted.err;
    EXPECT_TRUE(mounted.daemon().has_ended());
    EXPECT_FALSE(is_mounted(point));
    EXPECT_TRUE(in_bitmap_of_file(files(), 0));
  }
}

TEST_F(OrdinaryUser, NobodyElseMayUseTheMountNotEvenRoot) {
  const auto device = mount_fuse_device(0666);
  const auto done = cowfs_as(user, {"mount", files().cow.string(), "merged"});
  ASSERT_EQ(done.status, 0) << done.err;
  const auto mounted = mounted_by_user(home() / "merged");
  EXPECT_EQ(error_of([&] { open_file(home() / "merged", O_RDONLY); }), EACCES);
  EXPECT_NE(run_as(other_user, {"cat", "merged"}).status, 0);
  EXPECT_EQ(run_as(user, {"cat", "merged"}).status, 0);
}

TEST_F(OrdinaryUser, GetsABusyMountBackAsInUse) {
  const auto device = mount_fuse_device(0666);
  ASSERT_EQ(cowfs_as(user, {"mount", files().cow.string(), "dir"}).status, 0);
  const auto mounted = mounted_by_user(home() / "dir");
  Process reader({.command = {"sh", "-c", "exec 3<dir/disk; echo opened; exec sleep 60"},
                  .user = user,
                  .directory = home()});
  ASSERT_TRUE(eventually([&] { return reader.out() == "opened\n"; }));
  const auto refused = cowfs_as(user, {"umount", "dir"});
  EXPECT_EQ(refused.status, 5);
  EXPECT_THAT(refused.err, HasSubstr("in use"));
  EXPECT_TRUE(is_mounted(home() / "dir"));
}

TEST_F(OrdinaryUser, MayNotUnmountWhatAnotherMounted) {
  for (const std::string options : {"rw", "allow_other"}) {
    const auto mounted = mount_image(files().cow.string(), home() / "merged", {"-o", options});
    const auto refused = cowfs_as(user, {"umount", "merged"});
    EXPECT_EQ(refused.status, 1);
    EXPECT_THAT(refused.err, HasSubstr("merged: was mounted by another user"));
    EXPECT_TRUE(is_mounted(home() / "merged"));
  }
}

TEST_F(OrdinaryUser, AMountMayBeUnmountedByRootToo) {
  const auto device = mount_fuse_device(0666);
  for (const auto& point : {home() / "merged", home() / "dir"}) {
    ASSERT_EQ(cowfs_as(user, {"mount", files().cow.string(), point.string()}).status, 0);
    const auto mounted = mounted_by_user(point);
    const auto done = cowfs({"umount", point.string()});
    EXPECT_EQ(done.status, 0) << done.err;
    EXPECT_FALSE(is_mounted(point));
    EXPECT_TRUE(mounted.daemon().wait_for_end());
  }
}

TEST_F(OrdinaryUser, ACowThatTheUserMayNotWriteIsMountedReadOnlyAndTheUserIsTold) {
  const auto device = mount_fuse_device(0666);
  ASSERT_EQ(::chown(files().cow.c_str(), 0, 0), 0);
  const auto before = read_file(files().cow);
  const auto done = cowfs_as(user, {"mount", files().cow.string(), "merged"});
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_EQ(done.err,
            "cowfs: " + files().cow.string() + ": may not be written; opened read-only\n");
  const auto mounted = mounted_by_user(home() / "merged");
  EXPECT_EQ(run_as(user, {"cmp", "merged", "expected"}).status, 0);
  const auto write = run_as(user, {"dd", "if=expected", "of=merged", "conv=notrunc"});
  EXPECT_NE(write.status, 0);
  EXPECT_THAT(write.err, HasSubstr("Read-only file system"));
  EXPECT_EQ(cowfs_as(user, {"umount", "merged"}).status, 0);
  EXPECT_EQ(read_file(files().cow), before);
}

TEST_F(OrdinaryUser, IsRefusedTheOptionAllowOtherUnlessTheSystemAllowsIt) {
  const auto device = mount_fuse_device(0666);
  write_file(home() / "fuse.conf", std::string("# nothing\n"));
  const auto configuration = mount_file(home() / "fuse.conf", "/etc/fuse.conf");
  const std::vector<std::string> words{"mount", "-o", "allow_other", files().cow.string(),
                                       "merged"};
  expect_refused(cowfs_as(user, words), 1,
                 AllOf(HasSubstr("merged: cannot mount"), HasSubstr("allow_other"),
                       HasSubstr("user_allow_other"), HasSubstr("/etc/fuse.conf")));
  write_file(home() / "fuse.conf", std::string("user_allow_other\n"));
  ASSERT_EQ(::chmod(files().cow.c_str(), 0644), 0);
  const auto done = cowfs_as(user, words);
  ASSERT_EQ(done.status, 0) << done.err;
  const auto mounted = mounted_by_user(home() / "merged");
  EXPECT_EQ(run_as(other_user, {"cmp", "merged", "expected"}).status, 0);
  // The COW's mode still holds: others may read, not write.
  EXPECT_NE(run_as(other_user, {"dd", "if=expected", "of=merged", "conv=notrunc"}).status, 0);
}

TEST_F(OrdinaryUser, IsToldWhatIsMissing) {
  {
    const auto device = mount_fuse_device(0600);
    expect_refused(cowfs_as(user, {"mount", files().cow.string(), "merged"}), 1,
                   AllOf(HasSubstr("merged: cannot mount"), HasSubstr("/dev/fuse"),
                         HasSubstr("Permission denied")));
  }
  const auto device = mount_fuse_device(0666);
  ASSERT_EQ(::chown((home() / "merged").c_str(), 0, 0), 0);
  expect_refused(cowfs_as(user, {"mount", files().cow.string(), "merged"}), 1,
                 AllOf(HasSubstr("merged: cannot mount"), HasSubstr("Permission denied")));
  ASSERT_EQ(::chown((home() / "dir").c_str(), 0, 0), 0);
  expect_refused(cowfs_as(user, {"mount", files().cow.string(), "dir"}), 1,
                 AllOf(HasSubstr("dir: cannot mount"), HasSubstr("no write access")));
  ASSERT_EQ(::chown((home() / "dir").c_str(), user, user), 0);
  const auto without_run_directory =
      run({.command = {(home() / "cowfs").string(), "mount", files().cow.string(), "dir"},
           .user = user,
           .directory = home(),
           .variables = {"XDG_RUNTIME_DIR="}});
  expect_refused(without_run_directory, 1,
                 AllOf(HasSubstr("XDG_RUNTIME_DIR"), HasSubstr("pending=off")));
  ASSERT_EQ(::chmod(files().backing.c_str(), 0400), 0);
  expect_refused(cowfs_as(user, {"mount", files().cow.string(), "dir"}), 3,
                 AllOf(HasSubstr(files().backing.string()), HasSubstr("Permission denied")));
  ASSERT_EQ(::chmod(files().cow.c_str(), 0), 0);
  expect_refused(cowfs_as(user, {"mount", files().cow.string(), "dir"}), 1,
                 AllOf(HasSubstr(files().cow.string()), HasSubstr("Permission denied")));
}

TEST(Root, MayLetOthersUseItsMount) {
  TestRandom random;
  const auto disk = mount_memory("/mnt", "mode=0755");
  const auto files = make_cow_and_backing("/mnt", image_size, random);
  write_file("/mnt/expected", std::span(files.content));
  write_file("/mnt/merged", std::string());
  ASSERT_EQ(::chmod(files.cow.c_str(), 0644), 0);
  {
    const auto mounted = mount_image(files.cow.string(), "/mnt/merged");
    EXPECT_NE(run({.command = {"cat", "/mnt/merged"}, .user = user}).status, 0);
  }
  const auto mounted = mount_image(files.cow.string(), "/mnt/merged", {"-o", "allow_other"});
  EXPECT_EQ(run({.command = {"cmp", "/mnt/merged", "/mnt/expected"}, .user = user}).status, 0);
  EXPECT_NE(
      run({.command = {"dd", "if=/mnt/expected", "of=/mnt/merged", "conv=notrunc"}, .user = user})
          .status,
      0);
}

}  // namespace
}  // namespace cowfs::tests
