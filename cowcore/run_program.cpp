#include "cowcore/run_program.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <sstream>
#include <system_error>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

constexpr std::size_t longest_output = 65536;
constexpr int wait_milliseconds = 100;

[[noreturn]] void fail(int error, const fs::path& program, const char* action) {
  throw std::system_error(error, std::generic_category(),
                          fmt::format("{}: {}", program.string(), action));
}

/// What posix_spawn does to the descriptors and signals of the new process.
class SpawnSettings {
 public:
  explicit SpawnSettings(int output) {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions_, output, STDERR_FILENO);
    ::posix_spawnattr_init(&attributes_);
    sigset_t defaults;
    ::sigemptyset(&defaults);
    for (const int signal : {SIGXFSZ, SIGPIPE}) ::sigaddset(&defaults, signal);
    ::posix_spawnattr_setsigdefault(&attributes_, &defaults);
    // What the caller's thread keeps off itself must still reach the program, SIGTERM above all.
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  pid_t spawn(const fs::path& program, const std::vector<std::string>& arguments) {
    std::vector<char*> words{const_cast<char*>(program.c_str())};
    for (const auto& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
    words.push_back(nullptr);
    pid_t pid = 0;
    const int error =
        ::posix_spawn(&pid, program.c_str(), &actions_, &attributes_, words.data(), environ);
    if (error != 0) fail(error, program, "cannot run");
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/// Reads what there is, until the last writer has closed its end.
std::string read_output(int fd, const std::function<void()>& while_waiting) {
  std::string output;
  std::array<char, 4096> buffer;
  for (;;) {
    while_waiting();
    pollfd waited{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&waited, 1, wait_milliseconds) <= 0) continue;
    const auto count = ::read(fd, buffer.data(), buffer.size());
    if (count == 0) return output;
    if (count > 0 && output.size() < longest_output) {
      output.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }
}

}  // namespace

std::optional<fs::path> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream places(std::string(path == nullptr ? "" : path) +
                            ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
  for (std::string place; std::getline(places, place, ':');) {
    if (place.empty() || place.front() != '/') continue;
    const auto file = fs::path(place) / name;
    boost::system::error_code ignored;
    if (fs::is_regular_file(file, ignored) && ::access(file.c_str(), X_OK) == 0) return file;
  }
  return std::nullopt;
}

ProgramResult run_program(const fs::path& program, const std::vector<std::string>& arguments,
                          const std::function<void()>& while_waiting) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail(errno, program, "cannot make a pipe");
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  const auto pid = SpawnSettings(write_end.get()).spawn(program, arguments);
  write_end = FileDescriptor();
  ProgramResult result;
  try {
    result.output = read_output(read_end.get(), while_waiting);
  } catch (...) {
    ::kill(pid, SIGTERM);
    (void)wait_for(pid);
    throw;
  }
  result.status = wait_for(pid);
  return result;
}

}  // namespace cowfs::core
