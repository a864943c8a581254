// The life of a mount: how it begins, and all the ways in which it ends.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::HasSubstr;

constexpr std::uint64_t image_size = 1'000'000;
constexpr std::uint64_t somewhere = 300'000;

constexpr int failed = 1;
constexpr int in_use = 5;

class LifeCycle : public MountTest {
 protected:
  LifeCycle() : files_(make_files(image_size)), model_(files_.content) {
    fs::create_directory(directory() / "dir");
  }

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] std::string cow() const { return files_.cow.string(); }
  [[nodiscard]] ImageModel& model() { return model_; }
  void write_somewhere(const core::FileDescriptor& file) {
    model_.write(file, {somewhere, 5000}, random());
  }
  [[nodiscard]] bool is_in_bitmap() const { return in_bitmap_of_file(files_, somewhere); }
  [[nodiscard]] bool is_lock_free() const {
    const auto path = cow();
    return ForkedProcess([&] { return take_process_lock(path.c_str(), F_WRLCK); }).succeeded();
  }
  void expect_content_at_next_mount() {
    const auto mounted = mount_image(cow(), point());
    model_.check_all(open_file(mounted.file(), O_RDONLY));
  }

 private:
  CowAndBacking files_;
  ImageModel model_;
};

/// Runs a line of shell script with $COWFS, $COW and $POINT.
Outcome run_script(const std::string& cow, const fs::path& point, const std::string& line) {
  return run({.command = {"env", "COWFS=" + cowfs_program(), "COW=" + cow,
                          "POINT=" + point.string(), "sh", "-c", line}});
}

// The beginning

TEST_F(LifeCycle, MountReturnsWhenTheImageIsUsableAndUmountWhenAllIsGone) {
  for (int i = 0; i < 20; ++i) {
    const auto& where = i % 2 == 0 ? point() : directory() / "dir";
    ASSERT_EQ(cowfs({"mount", "-o", "commit=0", cow(), where.string()}).status, 0);
    ASSERT_TRUE(is_mounted(where));
    const Mounted mounted(where);
    ASSERT_NO_FATAL_FAILURE(model().write(open_file(mounted.file(), O_WRONLY),
                                          {static_cast<std::uint64_t>(i) * 10'000, 512}, random()));
    ASSERT_EQ(cowfs({"umount", where.string()}).status, 0);
    EXPECT_TRUE(mounted.daemon().has_ended());
    EXPECT_FALSE(is_mounted(where));
    EXPECT_TRUE(is_lock_free());
    EXPECT_TRUE(in_bitmap_of_file(files(), static_cast<std::uint64_t>(i) * 10'000));
  }
  expect_content_at_next_mount();
}

TEST_F(LifeCycle, TheDaemonHoldsNothingOfTheCallers) {
  const auto done = run(
      {.command = {cowfs_program(), "mount", cow(), point().string()}, .directory = directory()});
  ASSERT_EQ(done.status, 0) << done.err;
  const Mounted mounted(point());
  for (const auto pid : {mounted.daemon().pid(), mounted.worker().pid()}) {
    const auto process = fs::path("/proc") / std::to_string(pid);
    EXPECT_EQ(fs::read_symlink(process / "cwd"), "/");
    for (const auto* stream : {"0", "1", "2"}) {
      EXPECT_EQ(fs::read_symlink(process / "fd" / stream), "/dev/null");
    }
    EXPECT_EQ(::getsid(pid), mounted.daemon().pid());
  }
}

TEST_F(LifeCycle, ACallerThatCapturesTheOutputDoesNotWaitForTheDaemon) {
  // A shell reads such a pipe until every process that could write to it has closed it.
  for (const std::string line :
       {R"(out=$("$COWFS" mount "$COW" "$POINT" 2>&1) && echo "<$out>")",
        R"(echo "<$("$COWFS" mount "$COW" "$POINT" 9>&1 8<&0)>")",
        R"("$COWFS" mount "$COW" "$POINT" 2>&1 7>&1 | cat && echo "<>")"}) {
    SCOPED_TRACE(line);
    const auto outcome = run_script(cow(), point(), line);
    EXPECT_EQ(outcome.out, "<>\n");
    EXPECT_EQ(outcome.status, 0);
    Mounted(point()).unmount();
  }
}

TEST_F(LifeCycle, ItMayBeStartedWithoutStandardStreams) {
  for (const auto& closed :
       std::vector<std::vector<int>>{{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}}) {
    SCOPED_TRACE(::testing::PrintToString(closed));
    const auto mount =
        run({.command = {cowfs_program(), "mount", "-o", "commit=0", cow(), point().string()},
             .closed = closed});
    ASSERT_EQ(mount.status, 0) << mount.err;
    const Mounted mounted(point());
    ASSERT_NO_FATAL_FAILURE(write_somewhere(open_file(mounted.file(), O_RDWR)));
    ASSERT_NO_FATAL_FAILURE(model().check_all(open_file(mounted.file(), O_RDONLY)));
    const auto umount =
        run({.command = {cowfs_program(), "umount", point().string()}, .closed = closed});
    EXPECT_EQ(umount.status, 0) << umount.err;
    // A failure must say so by its status at least.
    const auto refused =
        run({.command = {cowfs_program(), "mount", files().backing.string(), point().string()},
             .closed = closed});
    EXPECT_EQ(refused.status, 4);
  }
}

TEST_F(LifeCycle, OfTwoMountsOfOneCowAtOnceOneSucceedsAndOneIsToldThatItIsInUse) {
  for (int i = 0; i < 10; ++i) {
    Process first({.command = {cowfs_program(), "mount", cow(), point().string()}});
    Process second({.command = {cowfs_program(), "mount", cow(), (directory() / "dir").string()}});
    const std::vector statuses{first.wait().status, second.wait().status};
    ASSERT_THAT(statuses, ::testing::UnorderedElementsAre(0, in_use));
    const Mounted mounted(statuses[0] == 0 ? point() : directory() / "dir");
    EXPECT_FALSE(is_mounted(statuses[0] == 0 ? directory() / "dir" : point()));
  }
}

TEST_F(LifeCycle, MountsOnOneMountPointComeOffOneByOne) {
  const auto other = make_files(image_size, "other");
  const auto lower = mount_image(cow(), directory() / "dir");
  const auto upper = mount_image(other.cow.string(), directory() / "dir");
  upper.unmount();
  EXPECT_TRUE(upper.daemon().has_ended());
  EXPECT_FALSE(lower.daemon().has_ended());
  model().check_all(open_file(lower.file(), O_RDONLY));
}

// Ended by umount

TEST_F(LifeCycle, UmountOfABusyMountIsRefusedAndHarmless) {
  for (const auto& where : {point(), directory() / "dir"}) {
    const auto mounted = mount_image(cow(), where, {"-o", "commit=0"});
    auto file = open_file(mounted.file(), O_RDWR);
    const auto refused = cowfs({"umount", where.string()});
    EXPECT_EQ(refused.status, in_use);
    EXPECT_THAT(refused.err, HasSubstr(where.string() + ": in use; close what uses it"));
    EXPECT_TRUE(is_mounted(where));
    EXPECT_FALSE(mounted.daemon().has_ended());
    ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
    ASSERT_NO_FATAL_FAILURE(model().check_all(file));
    file = {};
    mounted.unmount();
    EXPECT_TRUE(mounted.daemon().has_ended());
  }
}

TEST_F(LifeCycle, UmountOfWhatIsNoMountOfOursIsRefusedAndHarmless) {
  const auto expect_refused = [](const fs::path& path) {
    const auto refused = cowfs({"umount", path.string()});
    EXPECT_EQ(refused.status, failed);
    EXPECT_THAT(refused.err, HasSubstr(path.string()));
  };
  expect_refused(point());
  expect_refused(directory() / "dir");
  expect_refused(directory() / "missing");
  expect_refused("/");
  const auto other = mount_memory(directory() / "dir", "size=1M");
  write_file(directory() / "dir" / "file", std::string("still here"));
  expect_refused(directory() / "dir");
  EXPECT_TRUE(fs::exists(directory() / "dir" / "file"));
}

TEST_F(LifeCycle, UmountOfTheFileInAMountedDirectoryIsRefused) {
  const auto mounted = mount_image(cow(), directory() / "dir");
  EXPECT_EQ(cowfs({"umount", (directory() / "dir" / "disk").string()}).status, failed);
  EXPECT_TRUE(is_mounted(directory() / "dir"));
}

TEST_F(LifeCycle, TheSystemsOwnUnmountCommandsDoAsWell) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"umount"}, std::vector<std::string>{"fusermount3", "-u"}}) {
    SCOPED_TRACE(command[0]);
    const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
    ASSERT_NO_FATAL_FAILURE(write_somewhere(open_file(mounted.file(), O_RDWR)));
    auto words = command;
    words.push_back(point().string());
    const auto done = run({.command = words});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_TRUE(mounted.daemon().wait_for_end());
    EXPECT_TRUE(is_in_bitmap());
    EXPECT_TRUE(is_lock_free());
  }
  expect_content_at_next_mount();
}

TEST_F(LifeCycle, AfterALazyUnmountOpenHandlesAreServedToTheEndAndFlushed) {
  const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
  auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_EQ(::umount2(point().c_str(), MNT_DETACH), 0);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
  ASSERT_NO_FATAL_FAILURE(model().check_all(file));
  EXPECT_FALSE(mounted.daemon().has_ended());
  file = {};
  EXPECT_TRUE(mounted.daemon().wait_for_end());
  EXPECT_TRUE(is_in_bitmap());
  expect_content_at_next_mount();
}

// Ended by a signal

class LifeCycleBySignal : public LifeCycle, public ::testing::WithParamInterface<int> {};

TEST_P(LifeCycleBySignal, InTheForegroundEndsAnIdleMountWithStatus0) {
  ForegroundMount mount(cow(), point());
  ASSERT_NO_FATAL_FAILURE(write_somewhere(open_file(mount.mounted().file(), O_RDWR)));
  EXPECT_EQ(mount.process().watched().pid(), mount.mounted().daemon().pid());
  mount.process().watched().signal(GetParam());
  const auto outcome = mount.process().wait();
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.err, HasSubstr(point().string() + ": stopping on signal "));
  EXPECT_FALSE(is_mounted(point()));
  EXPECT_TRUE(is_lock_free());
  expect_content_at_next_mount();
}

TEST_P(LifeCycleBySignal, InTheForegroundFlushesABusyMountAndFailsItsUsers) {
  ForegroundMount mount(cow(), point(), {"-o", "commit=0"});
  const auto plain = open_file(mount.mounted().file(), O_RDWR);
  const auto direct = open_file(mount.mounted().file(), O_RDWR | O_DIRECT);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(plain));
  EXPECT_FALSE(is_in_bitmap());
  mount.process().watched().signal(GetParam());
  const auto outcome = mount.process().wait();
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.err, HasSubstr("stopped while in use"));
  EXPECT_TRUE(is_in_bitmap());
  EXPECT_FALSE(is_mounted(point()));
  EXPECT_EQ(error_of([&] { read_at(direct, 0, 512); }), ENOTCONN);
  EXPECT_EQ(error_of([&] { write_at(plain, 0, Bytes(512)); }), ENOTCONN);
  expect_content_at_next_mount();
}

TEST_P(LifeCycleBySignal, InTheBackgroundFlushesABusyMount) {
  const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
  const auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
  EXPECT_FALSE(is_in_bitmap());
  mounted.daemon().signal(GetParam());
  EXPECT_TRUE(mounted.daemon().wait_for_end());
  EXPECT_TRUE(is_in_bitmap());
  EXPECT_FALSE(is_mounted(point()));
  expect_content_at_next_mount();
}

INSTANTIATE_TEST_SUITE_P(, LifeCycleBySignal, ::testing::Values(SIGTERM, SIGINT, SIGHUP),
                         [](const auto& test) {
                           return test.param == SIGTERM  ? "SIGTERM"
                                  : test.param == SIGINT ? "SIGINT"
                                                         : "SIGHUP";
                         });

TEST_F(LifeCycle, ASignalUnderLoadEndsItAndKeepsWhatWasAcknowledged) {
  constexpr std::size_t length = 4096;
  for (int i = 0; i < 6; ++i) {
    ForegroundMount mount(cow(), point(), {"-o", "commit=0"});
    const auto file = open_file(mount.mounted().file(), O_RDWR | (i % 2 == 0 ? 0 : O_DIRECT));
    auto content = model().content();
    std::uint64_t offset = 0;
    std::size_t taken = 0;
    int error = 0;
    for (int count = 0; error == 0; ++count) {
      if (count == 50) mount.process().watched().signal(SIGTERM);
      offset = random().between(0, files().size() / 512 - 8) * 512;
      const auto bytes = random().bytes(length);
      taken = 0;
      error = error_of([&] { taken = write_at(file, offset, bytes); });
      std::copy_n(bytes.begin(), taken, content.begin() + static_cast<std::ptrdiff_t>(offset));
      if (taken < length) break;
    }
    EXPECT_TRUE(error == 0 || error == ENOTCONN || error == ECONNABORTED) << error;
    EXPECT_EQ(mount.process().wait().status, 0);
    const auto mounted = mount_image(cow(), point(), {"-o", "ro"});
    auto found = read_file(mounted.file());
    model() = ImageModel(found);
    // What the last write did not acknowledge may be there or not.
    const auto open_end = static_cast<std::ptrdiff_t>(offset + taken);
    std::copy_n(content.begin() + open_end, length - taken, found.begin() + open_end);
    EXPECT_TRUE(found == content) << difference(found, content);
  }
}

void kill_all_of(const Mounted& mounted) {
  const auto worker = mounted.worker();
  // First the one that would replace the other.
  mounted.daemon().signal(SIGKILL);
  worker.signal(SIGKILL);
  ASSERT_TRUE(mounted.daemon().wait_for_end());
  ASSERT_TRUE(worker.wait_for_end());
}

TEST_F(LifeCycle, AMountWhoseDaemonWasKilledCanBeUnmountedAndMountedAgain) {
  for (const auto& where : {point().string(), (directory() / "dir").string() + "/"}) {
    SCOPED_TRACE(where);
    const auto mounted =
        mount_image(cow(), fs::path(where).remove_trailing_separator(), {"-o", "commit=0"});
    const auto file_name = mounted.file();
    {
      const auto file = open_file(file_name, O_RDWR | O_SYNC);
      ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
    }
    kill_all_of(mounted);
    EXPECT_EQ(error_of([&] { open_file(file_name, O_RDONLY); }), ENOTCONN);
    // The kernel believes what it knows of the root's attributes for a second.
    ASSERT_TRUE(eventually(
        [&] { return error_of([&] { (void)status_of(mounted.point()); }) == ENOTCONN; }));
    const auto refused = cowfs({"mount", cow(), where});
    EXPECT_EQ(refused.status, failed);
    EXPECT_THAT(refused.err, HasSubstr(where + ": cannot mount there: Transport endpoint"));
    EXPECT_THAT(refused.err, HasSubstr("`cowfs umount` it first"));
    const auto done = cowfs({"umount", where});
    EXPECT_EQ(done.status, 0) << done.err;
    EXPECT_FALSE(is_mounted(mounted.point()));
    expect_content_at_next_mount();
  }
}

}  // namespace
}  // namespace cowfs::tests
