// Running programs, and watching processes.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::tests {

/// After this long a wait is given up: what is waited for will not happen. Nothing is measured.
inline constexpr std::chrono::seconds give_up_after{60};

/// Returns whether `condition` became true, asking it again and again.
template <typename Condition>
bool eventually(Condition&& condition);

/// A process, known in a way that survives the reuse of its number.
class WatchedProcess {
 public:
  /// Throws std::system_error if there is no such process.
  explicit WatchedProcess(pid_t pid);

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool has_ended() const { return wait_for_end(std::chrono::seconds(0)); }
  /// Whether it ended in time.
  [[nodiscard]] bool wait_for_end(std::chrono::seconds limit = give_up_after) const;
  void signal(int number) const;

 private:
  pid_t pid_;
  core::FileDescriptor handle_;
};

struct Outcome {
  int status = 0;  ///< the exit status; or 128 and the number of the signal that ended it
  std::string out;
  std::string err;
};

struct Launch {
  std::vector<std::string> command;
  std::optional<uid_t> user = {};  ///< runs with this as user and group, without any other group
  boost::filesystem::path directory = {};   ///< works there, unless empty
  std::vector<int> closed = {};             ///< standard streams that it is started without
  std::vector<std::string> variables = {};  ///< "NAME=value", besides the environment
};

/// A program that was started, and is killed if it still runs when this object goes. Its input is
/// empty; what it prints is kept.
class Process {
 public:
  /// Throws std::system_error. A program that can't be run ends with status 127.
  explicit Process(const Launch& launch);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  [[nodiscard]] const WatchedProcess& watched() const { return *watched_; }
  /// What it printed so far.
  [[nodiscard]] std::string out() const;
  [[nodiscard]] std::string err() const;
  /// Waits for its end; throws std::runtime_error if that does not come.
  Outcome wait();

 private:
  core::FileDescriptor out_;
  core::FileDescriptor err_;
  std::optional<WatchedProcess> watched_;
  bool reaped_ = false;
};

/// Another process that does `work`, and is killed if it still does when this object goes. Only for
/// tests that have no other threads.
class Worker {
 public:
  /// Throws std::system_error. An exception that leaves `work` ends it with status 1.
  explicit Worker(const std::function<void()>& work);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  [[nodiscard]] const WatchedProcess& watched() const { return *watched_; }
  /// Waits for its end; `err` is the exception's text. Throws std::runtime_error if it does not
  /// end.
  Outcome wait();

 private:
  core::FileDescriptor message_;
  std::optional<WatchedProcess> watched_;
  bool reaped_ = false;
};

/// Runs a program to its end.
Outcome run(const Launch& launch);

/// The program under test: COWFS from the environment, else the one that was built with the tests.
[[nodiscard]] std::string cowfs_program();

/// Runs the program under test.
Outcome cowfs(const std::vector<std::string>& arguments);

/// The processes of this sandbox that run cowfs, without those that have ended.
[[nodiscard]] std::vector<pid_t> cowfs_processes();

// What follows is the implementation of the template.

void sleep_a_little();

template <typename Condition>
bool eventually(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + give_up_after;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    sleep_a_little();
  }
  return true;
}

}  // namespace cowfs::tests
