// A worker that hangs, crashes, is killed or is to be upgraded is replaced under its users, who
// only wait.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/filesystem.hpp>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/support/daemon.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"
#include "tests/integration/support/write_journal.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint64_t image_size = 3'000'000;
constexpr int failed = 1;

fs::path program_of(pid_t pid) {
  return fs::read_symlink(fs::path("/proc") / std::to_string(pid) / "exe");
}

/// Another file with the same program.
void copy_program(const fs::path& to) {
  const auto program = read_file(cowfs_program());
  write_file(to, std::span(program));
  if (::chmod(to.c_str(), 0755) != 0) throw std::system_error(errno, std::generic_category());
}

class Takeover : public MountTest {
 protected:
  Takeover() : files_(make_files(image_size)), model_(files_.content) {
    const rlimit no_core_files{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core_files);
  }

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] std::string cow() const { return files_.cow.string(); }
  [[nodiscard]] ImageModel& model() { return model_; }

  void write_and_check(const core::FileDescriptor& file) {
    for (int i = 0; i < 20; ++i) {
      ASSERT_NO_FATAL_FAILURE(model_.write(file, model_.random_range(random(), 20'000), random()));
    }
    ASSERT_NO_FATAL_FAILURE(model_.check_all(file));
  }
  void expect_content_at_next_mount() {
    const auto mounted = mount_image(cow(), point());
    model_.check_all(open_file(mounted.file(), O_RDONLY | O_DIRECT));
  }

 private:
  CowAndBacking files_;
  ImageModel model_;
};

// Crashes

class TakeoverAfterSignal : public Takeover, public ::testing::WithParamInterface<int> {};

TEST_P(TakeoverAfterSignal, ServesWhatWasOpenAndKeepsWhatWasWritten) {
  {
    ForegroundMount mount(cow(), point(), {"-o", "commit=0,watchdog=2"});
    const auto plain = open_file(mount.mounted().file(), O_RDWR);
    const auto direct = open_file(mount.mounted().file(), O_RDWR | O_DIRECT);
    ASSERT_NO_FATAL_FAILURE(write_and_check(plain));
    const auto before = daemon_behind(plain);
    EXPECT_TRUE(before.replaceable);
    EXPECT_EQ(before.supervisor, mount.process().watched().pid());
    const WatchedProcess worker(before.worker);
    worker.signal(GetParam());
    // Whoever answers: the dying one may still do so.
    ASSERT_NO_FATAL_FAILURE(model().check_all(direct));
    EXPECT_TRUE(worker.wait_for_end());
    const auto after = daemon_behind(plain);
    EXPECT_NE(after.worker, before.worker);
    EXPECT_EQ(after.supervisor, before.supervisor);
    EXPECT_TRUE(after.replaceable);
    ASSERT_NO_FATAL_FAILURE(write_and_check(direct));
    ASSERT_NO_FATAL_FAILURE(write_and_check(plain));
    ASSERT_NO_FATAL_FAILURE(write_and_check(open_file(mount.mounted().file(), O_RDWR)));
    const auto log = mount.process().err();
    if (GetParam() == SIGSTOP) {
      EXPECT_THAT(
          log, HasSubstr(point().string() + ": the worker has not answered for 2 s; killing it"));
    } else {
      EXPECT_THAT(log, HasSubstr(point().string() + ": the worker was killed by signal " +
                                 std::to_string(GetParam())));
    }
    EXPECT_THAT(log, HasSubstr("; a new one takes over"));
  }
  expect_content_at_next_mount();
}

INSTANTIATE_TEST_SUITE_P(, TakeoverAfterSignal,
                         ::testing::Values(SIGKILL, SIGSEGV, SIGABRT, SIGBUS, SIGSTOP),
                         [](const auto& test) {
                           return std::string("SIG") + ::sigabbrev_np(test.param);
                         });

TEST_F(Takeover, FailsNoRequestThatTheDyingWorkerTakesUp) {
  // A thread that waits for a request may wake up to take one when its process is being killed.
  const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
  const auto plain = open_file(mounted.file(), O_RDWR);
  const auto direct = open_file(mounted.file(), O_RDWR | O_DIRECT);
  for (int i = 0; i < 4; ++i) {
    const WatchedProcess worker(daemon_behind(plain).worker);
    const auto& handle = i % 2 == 0 ? plain : direct;
    const Range range{300'000 + 100'000 * static_cast<std::uint64_t>(i), 90'000};
    worker.signal(SIGKILL);
    ASSERT_NO_FATAL_FAILURE(model().write(handle, range, random()));
    ASSERT_NO_FATAL_FAILURE(model().check_all(direct));
  }
}

TEST_F(Takeover, WithoutAWatchdogAStoppedWorkerMayGoOn) {
  const auto mounted = mount_image(cow(), point(), {"-o", "watchdog=0"});
  const auto file = open_file(mounted.file(), O_RDWR);
  const auto before = daemon_behind(file);
  const WatchedProcess worker(before.worker);
  worker.signal(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(3));
  worker.signal(SIGCONT);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  EXPECT_EQ(daemon_behind(file).worker, before.worker);
}

TEST_F(Takeover, OfAStoppedDaemonIsNotWaitedForByAnUmountByForce) {
  const auto mounted = mount_image(cow(), point(), {"-o", "watchdog=0,commit=0"});
  pid_t worker_number = 0;
  {
    // Not open any longer: a process that is started inherits it, and waits for the daemon when it
    // closes it.
    const auto file = open_file(mounted.file(), O_RDWR | O_DIRECT);
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
    worker_number = daemon_behind(file).worker;
  }
  const WatchedProcess worker(worker_number);
  for (const auto* process : {&worker, &mounted.daemon()}) process->signal(SIGSTOP);
  Worker reader([&] { read_at(open_file(mounted.file(), O_RDONLY), 0, 512); });
  EXPECT_FALSE(reader.watched().wait_for_end(std::chrono::seconds(1)));
  const auto umount = cowfs({"umount", "--force", point().string()});
  EXPECT_EQ(umount.status, 0) << umount.err;
  EXPECT_FALSE(is_mounted(point()));
  EXPECT_NE(reader.wait().status, 0);
  for (const auto* process : {&worker, &mounted.daemon()}) process->signal(SIGCONT);
  EXPECT_TRUE(mounted.daemon().wait_for_end());
  expect_content_at_next_mount();
}

TEST_F(Takeover, WithPendingOffADeadWorkerEndsTheMountAndTheLogWarnsOfThat) {
  ForegroundMount mount(cow(), point(), {"-o", "pending=off,commit=0"});
  const auto file = open_file(mount.mounted().file(), O_RDWR);
  const auto daemon = daemon_behind(file);
  EXPECT_FALSE(daemon.replaceable);
  ASSERT_TRUE(eventually([&] {
    return mount.process().err().find("mounted with pending=off: if the daemon is killed") !=
           std::string::npos;
  }));
  const auto restart = cowfs({"restart", point().string()});
  EXPECT_EQ(restart.status, failed);
  EXPECT_THAT(restart.err,
              AllOf(StartsWith("cowfs: " + point().string()),
                    HasSubstr("its worker can't be replaced"), HasSubstr("pending=off")));
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  sync_file(file);
  WatchedProcess(daemon.worker).signal(SIGKILL);
  const auto outcome = mount.process().wait();
  EXPECT_EQ(outcome.status, failed);
  EXPECT_THAT(outcome.err, HasSubstr("the worker was killed by signal 9 (Killed); the mount ends"));
  EXPECT_FALSE(is_mounted(point()));
  EXPECT_EQ(error_of([&] { write_at(file, 0, Bytes(512)); }), ENOTCONN);
  expect_content_at_next_mount();
}

// What was open stays so

TEST_F(Takeover, KeepsOpenHandlesOfAReadOnlyMount) {
  const auto mounted = mount_image(cow(), point(), {"-o", "ro"});
  const std::array handles{open_file(mounted.file(), O_RDONLY),
                           open_file(mounted.file(), O_RDONLY | O_DIRECT)};
  WorkerKiller killer(mounted.daemon().pid(), random());
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(killer.kill_one());
    for (const auto& handle : handles) ASSERT_NO_FATAL_FAILURE(model().check_all(handle));
    EXPECT_EQ(error_of([&] { open_file(mounted.file(), O_RDWR); }), EROFS);
  }
}

TEST_F(Takeover, KeepsADirectoryMountWithItsHandles) {
  fs::create_directory(directory() / "dir");
  const auto mounted = mount_image(cow(), directory() / "dir");
  const auto file = open_file(mounted.file(), O_RDWR);
  WorkerKiller killer(mounted.daemon().pid(), random());
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(killer.kill_one());
    EXPECT_EQ(names_in(mounted.point()), std::vector<std::string>{"disk"});
    ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  }
}

TEST_F(Takeover, PlainAndDirectHandlesAndMappingsStillSeeEachOthersWrites) {
  const auto mounted = mount_image(cow(), point());
  const auto plain = open_file(mounted.file(), O_RDWR);
  const auto direct = open_file(mounted.file(), O_RDWR | O_DIRECT);
  const MappedFile mapping(plain, files().size(), PROT_READ, MAP_SHARED);
  WorkerKiller killer(mounted.daemon().pid(), random());
  for (int round = 0; round < 4; ++round) {
    ASSERT_NO_FATAL_FAILURE(killer.kill_one());
    for (int i = 0; i < 200; ++i) {
      const auto range = model().random_range(random(), 10'000);
      // Into the page cache with it, so that it could be stale afterwards.
      ASSERT_NO_FATAL_FAILURE(model().check_read(plain, range));
      ASSERT_NO_FATAL_FAILURE(model().write(random().one_in(3) ? plain : direct, range, random()));
      ASSERT_NO_FATAL_FAILURE(model().check_read(plain, range));
      ASSERT_NO_FATAL_FAILURE(model().check_read(direct, range));
    }
    ASSERT_TRUE(std::ranges::equal(mapping.bytes(), model().content()));
  }
}

TEST_F(Takeover, ComesAlsoWhenTheWorkerDiesWhileItDropsPagesThatAreBeingRead) {
  // Such a worker can't end before the next one has answered the readers.
  const auto mounted = mount_image(cow(), point(), {"-o", "watchdog=0,cache=window:1M"});
  const auto file = open_file(mounted.file(), O_RDONLY | O_DIRECT);
  std::vector<std::unique_ptr<Worker>> users;
  for (std::uint64_t i = 0; i < 8; ++i) {
    users.push_back(std::make_unique<Worker>([&, i] {
      TestRandom its_random(i + 1);
      const auto handle = open_file(mounted.file(), O_RDONLY);
      for (;;) (void)read_at(handle, its_random.between(0, image_size - 1), 30'000);
    }));
  }
  WorkerKiller killer(mounted.daemon().pid(), random());
  for (int i = 0; i < 8; ++i) {
    const auto before = daemon_behind(file);
    ASSERT_NO_FATAL_FAILURE(killer.kill_one());
    EXPECT_NE(daemon_behind(file).worker, before.worker);
  }
  for (const auto& user : users) EXPECT_FALSE(user->watched().has_ended()) << user->wait().err;
}

TEST_F(Takeover, MayComeWhile32ThreadsOpenReadAndClose) {
  const auto mounted = mount_image(cow(), point());
  const auto supervisor = mounted.daemon().pid();
  std::atomic<bool> stop = false;
  std::atomic<int> failures = 0;
  std::atomic<int> opened = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 32; ++i) {
      threads.emplace_back([&, i] {
        const auto offset = static_cast<std::size_t>(i) * 50'000;
        const auto expected = std::span(files().content).subspan(offset, 3000);
        while (!stop) {
          const int error = error_of([&] {
            const auto flags = i % 2 == 0 ? O_RDONLY : O_RDWR | O_DIRECT;
            const auto found = read_at(open_file(mounted.file(), flags), offset, 3000);
            if (!std::ranges::equal(found, expected)) ++failures;
          });
          if (error != 0) ++failures;
          ++opened;
        }
      });
    }
    WorkerKiller killer(supervisor, random());
    for (int i = 0; i < 4; ++i) {
      killer.kill_one();
      const int before = opened;
      EXPECT_TRUE(eventually([&] { return opened > before + 100; }));
    }
    stop = true;
  }
  EXPECT_EQ(failures, 0);
}

// Restart

TEST_F(Takeover, OfARestartFailsNoIo) {
  {
    const auto mounted = mount_image(cow(), point(), {"-o", "commit=0"});
    auto file = open_file(mounted.file(), O_RDWR);
    WriteJournal journal(files().content, writers_of_every_kind());
    Writers writers(journal, mounted.file(), 1, Writers::Syncs::all_the_time);
    for (int i = 0; i < 6; ++i) {
      writers.wait_for_writes(30);
      const auto before = daemon_behind(file);
      const auto restart = cowfs({"restart", point().string()});
      ASSERT_EQ(restart.status, 0) << restart.err;
      const auto after = daemon_behind(file);
      EXPECT_NE(after.worker, before.worker);
      EXPECT_EQ(after.supervisor, before.supervisor);
    }
    writers.wait_for_writes(30);
    writers.expect_success();
    ASSERT_NO_FATAL_FAILURE(journal.check(file));
    file = {};
    mounted.unmount();
    const auto again = mount_image(cow(), point());
    journal.check(open_file(again.file(), O_RDONLY));
  }
}

TEST_F(Takeover, OfARestartRunsTheProgramThatIsInstalledByThen) {
  const auto program = directory() / "cowfs";
  copy_program(program);
  const auto mount = run({.command = {program.string(), "mount", cow(), point().string()}});
  ASSERT_EQ(mount.status, 0) << mount.err;
  const Mounted mounted(point());
  const auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  copy_program(directory() / "cowfs.new");
  fs::rename(directory() / "cowfs.new", program);
  EXPECT_NE(program_of(daemon_behind(file).worker), program);  // "... (deleted)"
  const auto restart = cowfs({"restart", point().string()});
  ASSERT_EQ(restart.status, 0) << restart.err;
  EXPECT_EQ(program_of(daemon_behind(file).worker), program);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
}

TEST_F(Takeover, RunsTheProgramOfTheSupervisorIfNoneCanBeRun) {
  const auto program = directory() / "cowfs";
  copy_program(program);
  const auto mount = run({.command = {program.string(), "mount", cow(), point().string()}});
  ASSERT_EQ(mount.status, 0) << mount.err;
  const Mounted mounted(point());
  const auto file = open_file(mounted.file(), O_RDWR);
  fs::remove(program);
  ASSERT_EQ(cowfs({"restart", point().string()}).status, 0);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
  // Half-copied.
  write_file(program, std::string("\x7f"
                                  "ELF"));
  ASSERT_EQ(::chmod(program.c_str(), 0755), 0);
  WatchedProcess(daemon_behind(file).worker).signal(SIGKILL);
  ASSERT_NO_FATAL_FAILURE(write_and_check(file));
}

TEST_F(Takeover, OfARestartIsRefusedToOtherUsers) {
  const auto disk = mount_memory("/mnt", "mode=0755");
  copy_program("/mnt/cowfs");
  write_file("/mnt/merged", std::string());
  const auto mounted = mount_image(cow(), "/mnt/merged", {"-o", "allow_other"});
  const auto file = open_file(mounted.file(), O_RDONLY);
  const auto before = daemon_behind(file);
  const auto refused =
      run({.command = {"/mnt/cowfs", "restart", "/mnt/merged"}, .user = uid_t{65534}});
  EXPECT_EQ(refused.status, failed);
  EXPECT_THAT(refused.err, HasSubstr("/mnt/merged: was mounted by another user"));
  EXPECT_EQ(daemon_behind(file).worker, before.worker);
}

TEST_F(Takeover, OfARestartIsRefusedForWhatIsNoMount) {
  const auto refused = cowfs({"restart", point().string()});
  EXPECT_EQ(refused.status, failed);
  EXPECT_THAT(refused.err, HasSubstr(point().string() + ": is no cowfs mount point"));
}

// An ordinary user

class TakeoverForAnOrdinaryUser : public Takeover {
 protected:
  static constexpr uid_t user = 65534;

  TakeoverForAnOrdinaryUser()
      : device_(mount_fuse_device(0666)), disk_(mount_memory("/mnt", "mode=0755")) {
    // The build tree may be where only root may go.
    copy_program("/mnt/cowfs");
    for (const auto* name : {"/mnt/home", "/mnt/run"}) fs::create_directory(name);
    files_ = make_cow_and_backing("/mnt/home", image_size, random());
    write_file("/mnt/home/merged", std::string());
    for (const auto* name : {"home", "home/merged", "home/image.cow", "run"}) {
      EXPECT_EQ(::chown((fs::path("/mnt") / name).c_str(), user, user), 0);
    }
    EXPECT_EQ(::chmod("/mnt/run", 0700), 0);
  }

  [[nodiscard]] static Outcome as_user(std::vector<std::string> environment,
                                       const std::vector<std::string>& arguments) {
    environment.insert(environment.begin(), "env");
    environment.emplace_back("/mnt/cowfs");
    environment.insert(environment.end(), arguments.begin(), arguments.end());
    return run({.command = environment, .user = user, .directory = "/mnt/home"});
  }

  const std::vector<std::string> with_run_directory{"XDG_RUNTIME_DIR=/mnt/run"};
  const std::vector<std::string> without_run_directory{"--unset=XDG_RUNTIME_DIR"};

 private:
  TestMount device_;
  TestMount disk_;
  CowAndBacking files_;
};

TEST_F(TakeoverForAnOrdinaryUser, WorksWithARunDirectoryOfTheirOwn) {
  const auto mount = as_user(with_run_directory, {"mount", "image.cow", "merged"});
  ASSERT_EQ(mount.status, 0) << mount.err;
  EXPECT_EQ(names_in("/mnt/run"), std::vector<std::string>{"cowfs"});
  const auto processes = cowfs_processes();
  ASSERT_EQ(processes.size(), 2U);
  // The supervisor began first.
  const Mounted mounted("/mnt/home/merged", std::ranges::min(processes));
  const auto write = run({.command = {"sh", "-c", "printf acknowledged 1<>merged"},
                          .user = user,
                          .directory = "/mnt/home"});
  EXPECT_EQ(write.status, 0) << write.err;
  WorkerKiller(mounted.daemon().pid(), random()).kill_one();
  const auto reader =
      run({.command = {"head", "-c", "12", "merged"}, .user = user, .directory = "/mnt/home"});
  EXPECT_EQ(reader.out, "acknowledged") << reader.err;
  const auto before = worker_beside(mounted.daemon().pid());
  const auto restart = as_user({}, {"restart", "merged"});
  EXPECT_EQ(restart.status, 0) << restart.err;
  EXPECT_NE(worker_beside(mounted.daemon().pid()), before);
  const auto umount = as_user({}, {"umount", "merged"});
  EXPECT_EQ(umount.status, 0) << umount.err;
  EXPECT_EQ(names_in("/mnt/run/cowfs"), std::vector<std::string>{});
}

TEST_F(TakeoverForAnOrdinaryUser, IsNotPromisedWithoutARunDirectory) {
  const auto refused = as_user(without_run_directory, {"mount", "image.cow", "merged"});
  EXPECT_EQ(refused.status, failed);
  EXPECT_THAT(refused.err,
              AllOf(StartsWith("cowfs: XDG_RUNTIME_DIR: is not set"), HasSubstr("pending=off")));
  EXPECT_FALSE(is_mounted("/mnt/home/merged"));
  const auto mount =
      as_user(without_run_directory, {"mount", "-o", "pending=off", "image.cow", "merged"});
  EXPECT_EQ(mount.status, 0) << mount.err;
  EXPECT_EQ(as_user(without_run_directory, {"umount", "merged"}).status, 0);
}

}  // namespace
}  // namespace cowfs::tests
