// Runs the tests in a sandbox, and sees to it that none leaves a mount or a daemon behind.

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/process.hpp"
#include "tests/integration/support/sandbox.hpp"

namespace cowfs::tests {
namespace {

/// What ctest takes for "skipped".
constexpr int skipped = 77;

class NothingLeftBehind : public ::testing::EmptyTestEventListener {
  void OnTestEnd(const ::testing::TestInfo& /*test*/) override {
    for (const auto& point : cowfs_mount_points()) {
      ADD_FAILURE() << "still mounted: " << point;
      ::umount2(point.c_str(), MNT_DETACH);
    }
    for (const auto pid : cowfs_processes()) {
      ADD_FAILURE() << "still running: cowfs, process " << pid;
      ::kill(pid, SIGKILL);  // all processes that are to be seen here are ours
    }
  }
};

int run_tests() {
  ::testing::UnitTest::GetInstance()->listeners().Append(new NothingLeftBehind);
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace cowfs::tests

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (::testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  if (::geteuid() != 0) {
    std::puts("skipped: these tests mount file systems, and must be run as root");
    return cowfs::tests::skipped;
  }
  return cowfs::tests::run_in_sandbox(cowfs::tests::run_tests);
}
