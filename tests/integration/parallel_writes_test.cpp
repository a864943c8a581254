// Direct writes to one merged file are served at the same time.
//
// The test traces the worker as a debugger does, and holds each of its threads that is about to
// write into the COW. If the kernel let only one direct write at a time go to the worker, a second
// thread would never come there.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

/// Holds the threads of a process at their writes into one file. All go on when this object goes,
/// and also if this program dies.
class HeldWriters {
 public:
  HeldWriters(pid_t process, fs::path file)
      : proc_(fs::path("/proc") / std::to_string(process)), file_(std::move(file)) {
    for (const auto& entry : fs::directory_iterator(proc_ / "task")) {
      const pid_t thread = std::stoi(entry.path().filename().string());
      request(PTRACE_SEIZE, thread, PTRACE_O_TRACESYSGOOD);
      threads_.insert(thread);
      request(PTRACE_INTERRUPT, thread);
    }
  }
  HeldWriters(const HeldWriters&) = delete;
  HeldWriters& operator=(const HeldWriters&) = delete;
  ~HeldWriters() {
    for (const auto thread : threads_) {
      // Only a stopped thread can be let go.
      if (held_.count(thread) == 0 && ::ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0) {
        ::waitpid(thread, nullptr, __WALL);
      }
      ::ptrace(PTRACE_DETACH, thread, 0, 0);
    }
  }

  /// Lets the threads go on until they are about to write, and tells how many are.
  std::size_t count() {
    for (const auto thread : threads_) {
      int status = 0;
      if (held_.count(thread) > 0 || ::waitpid(thread, &status, __WALL | WNOHANG) != thread) {
        continue;
      }
      if (!WIFSTOPPED(status)) throw std::runtime_error("a thread of the worker has ended");
      constexpr int at_system_call = SIGTRAP | 0x80;
      if (WSTOPSIG(status) == at_system_call && is_about_to_write(thread)) {
        held_.insert(thread);
        continue;
      }
      // What is no stop of the tracing's own is a signal that the thread is to get.
      const bool is_signal = WSTOPSIG(status) != at_system_call && status >> 16 == 0;
      request(PTRACE_SYSCALL, thread, is_signal ? WSTOPSIG(status) : 0);
    }
    return held_.size();
  }

 private:
  static void request(__ptrace_request what, pid_t thread, int data = 0) {
    if (::ptrace(what, thread, nullptr, reinterpret_cast<void*>(static_cast<long>(data))) != 0) {
      throw std::system_error(errno, std::generic_category(), "ptrace");
    }
  }

  [[nodiscard]] bool is_about_to_write(pid_t thread) const {
    __ptrace_syscall_info info{};
    const auto size = ::ptrace(PTRACE_GET_SYSCALL_INFO, thread,
                               reinterpret_cast<void*>(sizeof info), &info);  // NOLINT
    if (size <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != SYS_pwrite64) {
      return false;
    }
    boost::system::error_code ignored;
    const auto name = fs::read_symlink(proc_ / "fd" / std::to_string(info.entry.args[0]), ignored);
    return name == file_;
  }

  fs::path proc_;
  fs::path file_;
  std::set<pid_t> threads_;
  std::set<pid_t> held_;
};

using ParallelWrites = MountTest;

TEST_F(ParallelWrites, SeveralDirectWritesAreInFlightAtOnce) {
  if (!kernel_is_at_least(6, 9)) {
    GTEST_SKIP()
        << "before Linux 6.9 the kernel sends one direct write at a time, where a file that "
           "is open for direct I/O can be mapped";
  }
  constexpr std::uint64_t size = 4'000'000;
  constexpr int writers = 4;
  const auto files = make_files(size);
  const auto mounted = mount_image(files.cow.string(), point(), {"-o", "threads=6,commit=0"});
  auto content = files.content;
  std::vector<std::unique_ptr<Worker>> writing;
  {
    HeldWriters held(mounted.worker().pid(), files.cow);
    for (std::uint64_t i = 0; i < writers; ++i) {
      const auto bytes = random().bytes(8192);
      const auto offset = i * 1'000'000 / 512 * 512;
      std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(offset));
      writing.push_back(std::make_unique<Worker>([&mounted, bytes, offset] {
        const auto file = open_file(mounted.file(), O_WRONLY | O_DIRECT);
        if (write_at(file, offset, bytes) != bytes.size()) throw std::runtime_error("short write");
      }));
    }
    EXPECT_TRUE(eventually([&] { return held.count() == writers; }))
        << held.count() << " writes are in flight";
    for (const auto& writer : writing) EXPECT_FALSE(writer->watched().has_ended());
  }
  for (const auto& writer : writing) {
    const auto outcome = writer->wait();
    EXPECT_EQ(outcome.status, 0) << outcome.err;
  }
  EXPECT_TRUE(read_at(open_file(mounted.file(), O_RDONLY), 0, content.size()) == content);
}

}  // namespace
}  // namespace cowfs::tests
