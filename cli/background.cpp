#include "cli/background.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <system_error>

#include "cli/command.hpp"
#include "cowcore/file_descriptor.hpp"

namespace cowfs::cli {

void let_go_of_terminal() {
  const core::FileDescriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    ::dup2(null.get(), stream);
  }
  if (::chdir("/") != 0) {
    // It can't fail for a process that may read the root; then it only keeps a directory busy.
  }
}

namespace {

[[noreturn]] void run_child(const std::function<int(const Ready&)>& body, int pipe) {
  // Whoever started us must not wait for descriptors that we happen to have inherited.
  const int status_fd = ::dup2(pipe, STDERR_FILENO + 1);
  ::fcntl(status_fd, F_SETFD, FD_CLOEXEC);
  ::close_range(STDERR_FILENO + 2, ~0U, 0);
  ::setsid();
  bool told = false;
  const auto tell = [&](int status) {
    const auto byte = static_cast<char>(status);
    if (::write(status_fd, &byte, 1) != 1) {
      // The command was stopped by then; the mount goes on without it.
    }
    ::close(status_fd);
    told = true;
  };
  const int status = body([&] {
    if (told) return;
    let_go_of_terminal();
    tell(exit_done);
  });
  if (!told) tell(status);
  std::_Exit(status);
}

}  // namespace

int run_in_background(const std::function<int(const Ready&)>& body, std::ostream& err) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot make a pipe");
  }
  core::FileDescriptor from_child(ends[0]);
  core::FileDescriptor to_parent(ends[1]);
  err.flush();
  const pid_t child = ::fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "cannot fork");
  if (child == 0) run_child(body, to_parent.get());

  to_parent = core::FileDescriptor();
  char status = exit_failed;
  ssize_t count = 0;
  while ((count = ::read(from_child.get(), &status, 1)) < 0 && errno == EINTR) {
  }
  if (count == 1 && status == exit_done) return exit_done;
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (count != 1) err << "cowfs: the daemon died before the mount was ready; see the system log\n";
  return status;
}

}  // namespace cowfs::cli
