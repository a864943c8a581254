// Daemons are killed at random moments under raw writers, and no acknowledged write is lost.
//
// How often: COWFS_KILLS is the number of kills of all tests here together. Most are of worker and
// supervisor at once, because a worker alone may die only four times in ten seconds. A long run,
// which tells its seed when it fails:
//
//   COWFS_KILLS=200 COWFS_TEST_SEED=1 cowfs_integration_tests --gtest_filter='Kill.*'

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/filesystem.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/support/daemon.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/write_journal.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AnyOf;
using ::testing::HasSubstr;
using Syncs = Writers::Syncs;

constexpr std::uint64_t image_size = 12'345'678;
constexpr int in_use = 5;

/// An eighth of all kills.
int eighth_of_kills() {
  const char* given = std::getenv("COWFS_KILLS");
  const int kills = given != nullptr ? std::atoi(given) : 24;
  if (kills < 8) throw std::invalid_argument("COWFS_KILLS is a number from 8 on");
  return kills / 8;
}

class Kill : public MountTest {
 protected:
  Kill() : files_(make_files(image_size)), journal_(files_.content, writers_of_every_kind()) {
    std::printf("%s\n", seed_hint().c_str());
  }

  [[nodiscard]] std::string cow() const { return files_.cow.string(); }
  [[nodiscard]] WriteJournal& journal() { return journal_; }
  [[nodiscard]] std::unique_ptr<Writers> start_writers(const fs::path& file,
                                                       Syncs syncs = Syncs::rarely) {
    return std::make_unique<Writers>(journal_, file, ++streams_, syncs);
  }

  /// Mounts, and expects to be told of what a killed mount has left exactly if it has left
  /// anything.
  [[nodiscard]] Mounted mount_again(const std::string& options = "commit=0") {
    const bool left = has_left_sectors_behind(cow());
    mounts_with_something_left_ += left ? 1 : 0;
    const auto outcome = cowfs({"mount", "-o", options, cow(), point().string()});
    if (outcome.status != 0) throw std::runtime_error("cowfs mount: " + outcome.err);
    if (left) {
      EXPECT_THAT(outcome.err, HasSubstr(cow() + ": a mount that was killed has left "));
      EXPECT_THAT(outcome.err, HasSubstr(" written sectors; they are in its bitmap now"));
    } else {
      EXPECT_EQ(outcome.err, "");
    }
    return Mounted(point());
  }
  [[nodiscard]] int mounts_with_something_left() const { return mounts_with_something_left_; }

  void expect_sound_cow() const {
    const auto check = cowfs({"check", cow()});
    EXPECT_EQ(check.status, 0) << check.err;
    EXPECT_THAT(check.out, HasSubstr("in order"));
  }
  /// After an unmount in peace.
  void expect_nothing_lost() {
    expect_sound_cow();
    EXPECT_FALSE(has_left_sectors_behind(cow()));
    const auto mounted = mount_again();
    journal_.check(open_file(mounted.file(), O_RDONLY | O_DIRECT));
  }

  void kill_workers_under_writers(int kills, Syncs syncs);
  void kill_both_under_writers(int kills, Syncs syncs);

 private:
  CowAndBacking files_;
  WriteJournal journal_;
  std::uint64_t streams_ = 0;
  int mounts_with_something_left_ = 0;
};

// The worker alone

void Kill::kill_workers_under_writers(int kills, Syncs syncs) {
  {
    const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
    const auto file = open_file(mounted.file(), O_RDWR);
    const auto daemon = daemon_behind(file);
    WorkerKiller killer(daemon.supervisor, random());
    auto writers = start_writers(mounted.file(), syncs);
    for (int i = 0; i < kills; ++i) {
      writers->wait_for_writes(random().between(0, 50));
      ASSERT_NO_FATAL_FAILURE(killer.kill_one());
    }
    writers->wait_for_writes(50);
    writers->expect_success();
    EXPECT_NE(daemon_behind(file).worker, daemon.worker);
    EXPECT_TRUE(is_mounted(point()));
    EXPECT_FALSE(mounted.daemon().has_ended());
    ASSERT_NO_FATAL_FAILURE(journal().check(file));
    ASSERT_NO_FATAL_FAILURE(journal().check(open_file(mounted.file(), O_RDONLY | O_DIRECT)));
  }
  expect_nothing_lost();
}

TEST_F(Kill, OfWorkersFailsNoWriteAndLosesNone) {
  kill_workers_under_writers(eighth_of_kills(), Syncs::rarely);
}

TEST_F(Kill, OfWorkersInAStormOfFlushesFailsNoWriteAndLosesNone) {
  kill_workers_under_writers(eighth_of_kills(), Syncs::all_the_time);
}

TEST_F(Kill, OfOneWorkerAfterTheOtherEndsTheMountSaysWhyAndLosesNoWrite) {
  {
    ForegroundMount mount(cow(), point(), {"-o", "commit=0"});
    const auto supervisor = mount.process().watched().pid();
    const auto file = open_file(mount.mounted().file(), O_RDONLY | O_DIRECT);
    auto writers = start_writers(mount.mounted().file());
    writers->wait_for_writes(200);
    // On a slow machine some of the first five may be too long ago.
    ASSERT_TRUE(eventually([&] {
      const auto worker = worker_beside(supervisor);
      if (worker != 0) ::kill(worker, SIGKILL);
      return mount.process().watched().has_ended();
    }));
    const auto outcome = mount.process().wait();
    EXPECT_EQ(outcome.status, 1);
    EXPECT_THAT(outcome.err, HasSubstr(point().string() + ": the worker was killed by signal 9"));
    EXPECT_THAT(outcome.err, HasSubstr("the 5th time in 10 s; giving up, the mount ends"));
    EXPECT_FALSE(is_mounted(point()));
    writers->expect_end_of_mount();
    EXPECT_THAT(error_of([&] { read_at(file, 0, 512); }), AnyOf(ENOTCONN, ECONNABORTED, EIO));
  }
  // Mostly with something left; nothing is if a worker was killed right after it took over.
  const auto mounted = mount_again();
  journal().check(open_file(mounted.file(), O_RDONLY));
}

// Worker and supervisor

void Kill::kill_both_under_writers(int kills, Syncs syncs) {
  for (int i = 0; i < kills; ++i) {
    SCOPED_TRACE("kill " + std::to_string(i + 1));
    const auto mounted = mount_again(i % 2 == 0 ? "commit=0" : "commit=1");
    auto file = open_file(mounted.file(), O_RDONLY | O_DIRECT);
    ASSERT_NO_FATAL_FAILURE(journal().check(file));
    const auto daemon = daemon_behind(file);
    file = {};
    const WatchedProcess worker(daemon.worker);
    auto writers = start_writers(mounted.file(), syncs);
    writers->wait_for_writes(random().between(0, random().one_in(2) ? 20 : 1000));
    std::this_thread::sleep_for(std::chrono::microseconds(random().between(0, 3000)));
    // One of the two comes first; if it is the worker, there may be another already.
    const bool supervisor_first = random().one_in(2);
    (supervisor_first ? mounted.daemon() : worker).signal(SIGKILL);
    (supervisor_first ? worker : mounted.daemon()).signal(SIGKILL);
    ASSERT_TRUE(mounted.daemon().wait_for_end());
    ASSERT_TRUE(eventually([&] {
      const auto another = worker_beside(daemon.supervisor);
      if (another != 0) ::kill(another, SIGKILL);
      return another == 0;
    }));
    // A dying daemon can leave a thread in the kernel that waits for an answer, and keeps others
    // waiting with it, until the mount is taken away (cowfs-umount(1)).
    const auto umount = writers->wait_for_end() ? cowfs({"umount", point().string()})
                                                : cowfs({"umount", "--force", point().string()});
    ASSERT_EQ(umount.status, 0) << umount.err;
    writers->expect_end_of_mount();
    expect_sound_cow();
  }
  {
    const auto mounted = mount_again();
    ASSERT_NO_FATAL_FAILURE(journal().check(open_file(mounted.file(), O_RDONLY)));
  }
  expect_nothing_lost();
}

TEST_F(Kill, OfWorkerAndSupervisorLosesNoAcknowledgedWrite) {
  kill_both_under_writers(5 * eighth_of_kills(), Syncs::rarely);
  // Or this has shown nothing.
  EXPECT_GT(mounts_with_something_left(), 0);
}

TEST_F(Kill, OfWorkerAndSupervisorInAStormOfFlushesLosesNoAcknowledgedWrite) {
  kill_both_under_writers(eighth_of_kills(), Syncs::all_the_time);
}

// The supervisor alone

TEST_F(Kill, OfTheSupervisorLeavesAWorkerThatServesUntilUmount) {
  {
    const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
    auto file = open_file(mounted.file(), O_RDWR);
    const auto before = daemon_behind(file);
    auto writers = start_writers(mounted.file());
    writers->wait_for_writes(200);
    mounted.daemon().signal(SIGKILL);
    ASSERT_TRUE(mounted.daemon().wait_for_end());
    writers->wait_for_writes(200);
    writers->expect_success();
    const auto after = daemon_behind(file);
    EXPECT_EQ(after.worker, before.worker);
    EXPECT_EQ(after.supervisor, before.worker);
    EXPECT_FALSE(after.replaceable);
    const auto second = cowfs({"mount", cow(), (directory() / "image.backing").string()});
    EXPECT_EQ(second.status, in_use) << second.err;
    const auto restart = cowfs({"restart", point().string()});
    EXPECT_EQ(restart.status, 1);
    EXPECT_THAT(restart.err, HasSubstr("its worker can't be replaced"));
    file = {};
    const WatchedProcess worker(after.worker);
    const auto umount = cowfs({"umount", point().string()});
    EXPECT_EQ(umount.status, 0) << umount.err;
    EXPECT_TRUE(worker.has_ended());
    EXPECT_FALSE(is_mounted(point()));
  }
  expect_nothing_lost();
}

}  // namespace
}  // namespace cowfs::tests
