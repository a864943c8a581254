// Calls that arrive together share one run, and only one that began after they arrived.

#include "cowcore/joined_calls.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace cowfs::core {
namespace {

TEST(JoinedCalls, OneCallerAfterTheOtherHasARunEach) {
  JoinedCalls calls;
  int runs = 0;
  for (int i = 0; i < 3; ++i) calls.run([&] { ++runs; });
  EXPECT_EQ(runs, 3);
}

TEST(JoinedCalls, ThoseWhoArriveDuringARunShareTheNext) {
  static constexpr int late_callers = 5;
  JoinedCalls calls;
  std::atomic<int> runs = 0;
  std::atomic<int> arrived = 0;
  std::vector<std::jthread> threads;
  const auto call = [&] { ++runs; };
  calls.run([&] {
    ++runs;
    for (int i = 0; i < late_callers; ++i) {
      threads.emplace_back([&] {
        ++arrived;
        calls.run(call);
      });
    }
    while (arrived < late_callers) std::this_thread::yield();
  });
  threads.clear();
  // All share one run; a thread that was put to sleep just before its call may need one more.
  EXPECT_GE(runs, 2);
  EXPECT_LE(runs, 1 + late_callers);
}

TEST(JoinedCalls, ARunThatBeganBeforeTheCallerDoesNotCount) {
  JoinedCalls calls;
  std::atomic<bool> changed = false;
  std::atomic<bool> seen = false;
  std::jthread late;
  calls.run([&] {
    late = std::jthread([&] {
      changed = true;
      calls.run([&] { seen = changed.load(); });
      EXPECT_TRUE(seen) << "the caller was served by a run that had begun before";
    });
    while (!changed) std::this_thread::yield();
  });
}

TEST(JoinedCalls, NeverTwoAtOnceAndEveryCallerIsServed) {
  JoinedCalls calls;
  std::atomic<int> running = 0;
  std::atomic<bool> overlapped = false;
  std::atomic<int> version = 0;
  std::atomic<int> published = 0;
  std::atomic<int> missed = 0;
  std::vector<std::jthread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const int mine = ++version;
        calls.run([&] {
          if (++running != 1) overlapped = true;
          published = version.load();
          --running;
        });
        if (published < mine) ++missed;
      }
    });
  }
  threads.clear();
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(missed, 0);
}

TEST(JoinedCalls, AnErrorReachesItsCallersAndNotTheNext) {
  JoinedCalls calls;
  EXPECT_THROW(calls.run([] { throw std::runtime_error("broken"); }), std::runtime_error);
  EXPECT_NO_THROW(calls.run([] {}));
}

}  // namespace
}  // namespace cowfs::core
