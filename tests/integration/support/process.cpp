#include "tests/integration/support/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace cowfs::tests {

namespace fs = boost::filesystem;

namespace {

[[noreturn]] void fail(const std::string& action) {
  throw std::system_error(errno, std::generic_category(), action);
}

core::FileDescriptor memory_file(const char* name) {
  core::FileDescriptor fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) fail("memfd_create");
  return fd;
}

std::string content_of(const core::FileDescriptor& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("fstat");
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const auto count = ::pread(file.get(), text.data(), text.size(), 0);
  if (count < 0) fail("read what a program printed");
  text.resize(static_cast<std::size_t>(count));
  return text;
}

/// As exec wants it: pointers into `words`, and a null.
std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (auto& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

struct Streams {
  int in;
  int out;
  int err;
};

/// The other half of fork: only calls that are safe there.
[[noreturn]] void become(const Launch& launch, char* const* arguments, char* const* variables,
                         const Streams& streams) {
  ::dup2(streams.in, STDIN_FILENO);
  ::dup2(streams.out, STDOUT_FILENO);
  ::dup2(streams.err, STDERR_FILENO);
  for (const int stream : launch.closed) ::close(stream);
  if (!launch.directory.empty() && ::chdir(launch.directory.c_str()) != 0) ::_exit(127);
  if (launch.user) {
    const auto id = *launch.user;
    if (::setgroups(0, nullptr) != 0 || ::setresgid(id, id, id) != 0 ||
        ::setresuid(id, id, id) != 0) {
      ::_exit(127);
    }
  }
  ::execvpe(arguments[0], arguments, variables);
  ::_exit(127);
}

void kill_and_reap(const WatchedProcess& process) {
  process.signal(SIGKILL);
  while (::waitpid(process.pid(), nullptr, 0) < 0 && errno == EINTR) {
  }
}

/// Returns the exit status, or 128 and the number of a signal.
int reap(const WatchedProcess& process) {
  int status = 0;
  while (::waitpid(process.pid(), &status, 0) < 0) {
    if (errno != EINTR) fail("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

void sleep_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(5)); }

WatchedProcess::WatchedProcess(pid_t pid)
    : pid_(pid), handle_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {
  if (!handle_) fail(fmt::format("watch process {}", pid));
}

bool WatchedProcess::wait_for_end(std::chrono::seconds limit) const {
  pollfd end{handle_.get(), POLLIN, 0};
  const auto milliseconds = static_cast<int>(std::chrono::milliseconds(limit).count());
  int count = 0;
  while ((count = ::poll(&end, 1, milliseconds)) < 0) {
    if (errno != EINTR) fail("poll");
  }
  return count > 0;
}

void WatchedProcess::signal(int number) const {
  if (::syscall(SYS_pidfd_send_signal, handle_.get(), number, nullptr, 0) != 0 && errno != ESRCH) {
    fail("send a signal");
  }
}

Process::Process(const Launch& launch)
    : out_(memory_file("standard output")), err_(memory_file("standard error")) {
  auto words = launch.command;
  const auto arguments = pointers_to(words);
  auto environment = launch.variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    environment.emplace_back(*variable);
  }
  const auto variables = pointers_to(environment);
  const core::FileDescriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null) fail("/dev/null");
  const pid_t child = ::fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    become(launch, arguments.data(), variables.data(), {null.get(), out_.get(), err_.get()});
  }
  watched_.emplace(child);
}

Process::~Process() {
  if (!reaped_) kill_and_reap(*watched_);
}

std::string Process::out() const { return content_of(out_); }

std::string Process::err() const { return content_of(err_); }

Outcome Process::wait() {
  if (!watched_->wait_for_end()) {
    throw std::runtime_error(
        fmt::format("process {} does not end; it said: {}{}", watched_->pid(), out(), err()));
  }
  const int status = reap(*watched_);
  reaped_ = true;
  return {status, out(), err()};
}

Worker::Worker(const std::function<void()>& work) : message_(memory_file("message")) {
  const pid_t child = ::fork();
  if (child < 0) fail("fork");
  if (child > 0) {
    watched_.emplace(child);
    return;
  }
  // Not exit: the destructors and reports at the end of the program are the parent's.
  try {
    work();
    ::_exit(0);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    ::_exit(::pwrite(message_.get(), text.data(), text.size(), 0) >= 0 ? 1 : 2);
  }
}

Worker::~Worker() {
  if (!reaped_) kill_and_reap(*watched_);
}

Outcome Worker::wait() {
  if (!watched_->wait_for_end(2 * give_up_after)) throw std::runtime_error("a worker does not end");
  const int status = reap(*watched_);
  reaped_ = true;
  return {status, {}, content_of(message_)};
}

Outcome run(const Launch& launch) { return Process(launch).wait(); }

std::string cowfs_program() {
  const char* given = std::getenv("COWFS");
  return fs::canonical(given != nullptr ? given : COWFS_PROGRAM).string();
}

Outcome cowfs(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{cowfs_program()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run({.command = command});
}

std::vector<pid_t> cowfs_processes() {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    if (!std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; })) continue;
    fs::ifstream file(entry.path() / "stat");
    std::string line;
    std::getline(file, line);
    // "12 (cowfs) S ...": the state Z is that of a process that has ended.
    const bool is_cowfs = line.find(" (cowfs) ") != std::string::npos;
    if (is_cowfs && line.find(" (cowfs) Z") == std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

}  // namespace cowfs::tests
