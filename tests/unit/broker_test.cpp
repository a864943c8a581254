// The process outside of the jail, with workers that do nothing but end, in any order. A broker's
// worker is its own program: here the same test, which knows by the program's name what it is.

#include "hostfs/broker.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "cowcore/file_descriptor.hpp"
#include "fuse/log.hpp"

namespace cowfs::hostfs {
namespace {

using namespace std::chrono_literals;

/// How a process ends: some time after it has begun, with a status or by a signal.
struct End {
  std::chrono::milliseconds after{0};
  int status = 0;
  int signal = 0;
};

/// The process that a broker starts, and the one that it goes on in.
struct Worker {
  const char* name;
  End first;
  bool goes_on;
  End second;
  int result;  ///< of Broker::run
};

void PrintTo(const Worker& worker, std::ostream* out) { *out << worker.name; }

[[noreturn]] void end(const End& how) {
  std::this_thread::sleep_for(how.after);
  if (how.signal != 0) ::raise(how.signal);
  ::_exit(how.status);
}

class Silence final : public fuse::Log {
 public:
  void info(const std::string& /*line*/) override {}
  void warning(const std::string& /*line*/) override {}
  void error(const std::string& /*line*/) override {}
};

class BrokerOfAWorker : public ::testing::TestWithParam<Worker> {};
INSTANTIATE_TEST_SUITE_P(
    That, BrokerOfAWorker,
    ::testing::Values(Worker{"EndsAtOnce", {}, false, {}, 0},
                      Worker{"FailsAtOnce", {0ms, 4}, false, {}, 4},
                      Worker{"EndsLast", {}, true, {200ms}, 0},
                      Worker{"EndsFirst", {200ms}, true, {}, 0},
                      Worker{"FailsLast", {}, true, {200ms, 3}, 3},
                      Worker{"FailsFirst", {200ms}, true, {0ms, 3}, 3},
                      Worker{"IsKilledLast", {}, true, {200ms, 0, SIGKILL}, -1},
                      Worker{"IsKilledFirst", {200ms}, true, {0ms, 0, SIGKILL}, -1}),
    [](const auto& test) { return std::string(test.param.name); });

constexpr const char* worker_name = "worker";

[[noreturn]] void work_as(const Worker& worker) {
  const auto child = !worker.goes_on ? 1
                                     : ::syscall(SYS_clone, CLONE_PARENT | SIGCHLD, nullptr,
                                                 nullptr, nullptr, nullptr);
  end(child == 0 ? worker.second : worker.first);
}

/// A child as execve(2) leaves it to the program that it starts.
pid_t start_another_child() {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) ::pause();
}

[[noreturn]] void watch(const Worker& worker) {
  const pid_t other = start_another_child();
  Silence log;
  BrokerOptions options;
  options.command = {worker_name, std::string("--gtest_filter=*.EndsWithIt/") + worker.name};
  core::FileDescriptor device(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const core::FileDescriptor directory(::open("/", O_PATH | O_CLOEXEC));
  options.directory = directory.get();
  Broker broker(std::move(device), std::move(options), log);
  const auto result = broker.run([](const std::string&) {}, [](int) {});
  ::kill(other, SIGKILL);
  const bool was_left_alone = ::waitpid(other, nullptr, 0) == other;
  ::_exit(result == worker.result && was_left_alone ? 0 : 1);
}

TEST_P(BrokerOfAWorker, EndsWithIt) {
  if (std::string_view(program_invocation_name) == worker_name) work_as(GetParam());
  // In a process of its own: a broker blocks signals and gives up its capabilities.
  EXPECT_EXIT(watch(GetParam()), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace cowfs::hostfs
