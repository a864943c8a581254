#include "tests/support/forked_process.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace cowfs::tests {
namespace {

[[noreturn]] void fail(const char* action) {
  throw std::system_error(errno, std::generic_category(), action);
}

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) fail("pipe");
    read_end = core::FileDescriptor(fds[0]);
    write_end = core::FileDescriptor(fds[1]);
  }
  core::FileDescriptor read_end;
  core::FileDescriptor write_end;
};

[[noreturn]] void be_child(const std::function<bool()>& work, Pipe& done, Pipe& stay) {
  stay.write_end = {};
  char answer = 'n';
  try {
    if (work()) answer = 'y';
  } catch (...) {
  }
  // Not exit: the destructors and reports at the end of the program are the parent's.
  if (::write(done.write_end.get(), &answer, 1) != 1) ::_exit(1);
  char unused = 0;
  while (::read(stay.read_end.get(), &unused, 1) < 0 && errno == EINTR) {
  }
  ::_exit(0);
}

constexpr std::array<unsigned, 3> ignoring_permissions{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
                                                       CAP_FOWNER};

using Capabilities = std::array<__user_cap_data_struct, 2>;

Capabilities capabilities() {
  Capabilities data{};
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  if (::syscall(SYS_capget, &header, data.data()) != 0) fail("capget");
  return data;
}

void set_capabilities(const Capabilities& data) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  if (::syscall(SYS_capset, &header, data.data()) != 0) fail("capset");
}

}  // namespace

ForkedProcess::ForkedProcess(const std::function<bool()>& work) {
  Pipe done;
  Pipe stay;
  pid_ = ::fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0) be_child(work, done, stay);
  done.write_end = {};
  stay_ = std::move(stay.write_end);
  char answer = 'n';
  succeeded_ = ::read(done.read_end.get(), &answer, 1) == 1 && answer == 'y';
}

ForkedProcess::~ForkedProcess() {
  stay_ = {};
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool take_process_lock(const char* path, short type) {
  core::FileDescriptor fd(::open(path, (type == F_WRLCK ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  if (!fd) fail("open");
  struct flock whole {};
  whole.l_type = type;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd.release(), F_SETLK, &whole) == 0) return true;
  if (errno != EAGAIN && errno != EACCES) fail("F_SETLK");
  return false;
}

WithoutFilePrivileges::WithoutFilePrivileges() {
  auto data = capabilities();
  for (unsigned i = 0; i < 2; ++i) effective_before_[i] = data[i].effective;
  for (const auto capability : ignoring_permissions) {
    data[capability / 32].effective &= ~(1U << (capability % 32));
  }
  set_capabilities(data);
}

WithoutFilePrivileges::~WithoutFilePrivileges() {
  auto data = capabilities();
  for (unsigned i = 0; i < 2; ++i) data[i].effective = effective_before_[i];
  try {
    set_capabilities(data);
  } catch (const std::system_error&) {
    // It gave up effective capabilities only; those are always to be had back.
  }
}

}  // namespace cowfs::tests
