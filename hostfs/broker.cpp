#include "hostfs/broker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "fuse/newer_protocol.hpp"
#include "hostfs/broker_protocol.hpp"
#include "hostfs/identity.hpp"

namespace cowfs::hostfs {
namespace {

/// Exit status of a child that could not become a worker.
constexpr int cannot_start_status = 98;
constexpr std::size_t most_backings = std::size_t{1} << 20;
constexpr unsigned most_lines_in_second = 20;
constexpr std::size_t longest_line = 512;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

sigset_t handled_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::sigaddset(&signals, signal);
  return signals;
}

std::array<core::FileDescriptor, 2> make_sockets() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw_errno("cannot make a pair of sockets");
  }
  return {core::FileDescriptor(ends[0]), core::FileDescriptor(ends[1])};
}

/// Puts the descriptors where the worker looks for them, and becomes it, without an environment.
[[noreturn]] void become_worker(const std::vector<std::string>& command,
                                const std::array<int, 4>& descriptors) {
  std::array<int, 4> high{};
  for (std::size_t i = 0; i < high.size(); ++i) {
    high[i] = ::fcntl(descriptors[i], F_DUPFD_CLOEXEC, 64);
  }
  for (std::size_t i = 0; i < high.size(); ++i) {
    if (::dup2(high[i], WorkerDescriptors::device + static_cast<int>(i)) < 0) {
      ::_exit(cannot_start_status);
    }
  }
  // Nor has it a stream of whoever called the command.
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, stream);
  ::close_range(WorkerDescriptors::directory + 1, ~0U, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::array<char*, 1> no_environment{nullptr};
  ::execve("/proc/self/exe", arguments.data(), no_environment.data());
  ::_exit(cannot_start_status);
}

std::string without_control_characters(std::string line) {
  line.resize(std::min(line.size(), longest_line));
  for (auto& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return line;
}

}  // namespace

Broker::Broker(core::FileDescriptor device, BrokerOptions options, fuse::Log& log)
    : device_(std::move(device)), options_(std::move(options)), log_(log) {
  const auto signals = handled_signals();
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  signals_ = core::FileDescriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) throw_errno("cannot make a signalfd");
}

void Broker::start_worker() {
  auto requests = make_sockets();
  auto reports = make_sockets();
  const core::FileDescriptor nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::array<int, 4> descriptors{device_.get(),
                                       options_.passthrough ? requests[1].get() : nothing.get(),
                                       reports[1].get(), options_.directory};
  worker_group_ = ::fork();
  if (worker_group_ < 0) throw_errno("cannot fork");
  // By both of them, since neither may go on before it is done; 0 is the caller itself.
  ::setpgid(worker_group_, worker_group_);
  if (worker_group_ == 0) become_worker(options_.command, descriptors);
  requests_ = std::move(requests[0]);
  reports_ = std::move(reports[0]);
}

/// Keeps what unmounting and passthrough take.
void Broker::drop_capabilities() {
  if (::geteuid() != 0) return;
  constexpr auto needed = std::uint64_t{1} << CAP_SYS_ADMIN | std::uint64_t{1} << CAP_KILL;
  if (options_.as) {
    // New blocks of a file that the kernel writes by itself are that user's, too.
    ::syscall(SYS_setfsgid, options_.as->gid);
    ::syscall(SYS_setfsuid, options_.as->uid);
  }
  set_thread_capabilities({needed, needed});
}

int Broker::run(const std::function<void(const std::string&)>& on_ready,
                const std::function<void(int)>& on_stop) {
  start_worker();
  drop_capabilities();
  for (;;) {
    std::array<pollfd, 3> wait{pollfd{signals_.get(), POLLIN, 0}, pollfd{reports_.get(), POLLIN, 0},
                               pollfd{requests_.get(), POLLIN, 0}};
    if (::poll(wait.data(), wait.size(), -1) < 0 && errno != EINTR) throw_errno("cannot poll");
    // First what it has said, then whether it is gone.
    if (wait[1].revents != 0) handle_reports(on_ready);
    if (wait[2].revents != 0) handle_requests();
    handle_signals(on_stop);
    if (const auto end = reap(on_ready)) return *end;
  }
}

/// Takes every child that has ended, since signals of several are one. What the worker's end means
/// for the export; nothing while it lives.
///
/// A worker that goes on in namespaces of its own is two children for a while, which end in any
/// order: the one that is left behind may be kept from running while the other serves and ends.
/// So the worker has ended when no child is left in its process group, and that it went well is for
/// all of them to say. Other children may be there from before this program's execve(2).
std::optional<int> Broker::reap(const std::function<void(const std::string&)>& on_ready) {
  int status = 0;
  pid_t ended = 0;
  while ((ended = ::waitpid(-worker_group_, &status, WNOHANG)) > 0) {
    if (worker_status_ == 0) worker_status_ = status;
  }
  if (ended == 0) return std::nullopt;
  handle_reports(on_ready);
  if (!refusal_.empty()) throw std::runtime_error(refusal_);
  if (WIFEXITED(worker_status_)) {
    const int exit_status = WEXITSTATUS(worker_status_);
    if (exit_status != cannot_start_status) return exit_status;
    throw std::runtime_error("the sandbox: cannot start a worker; see the system's limits");
  }
  log_.error(
      fmt::format("the worker was killed by signal {}; the export ends", WTERMSIG(worker_status_)));
  return -1;
}

void Broker::handle_signals(const std::function<void(int)>& on_stop) {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
    if (signal.ssi_signo != SIGCHLD) on_stop(static_cast<int>(signal.ssi_signo));
  }
}

// --- the log ---

void Broker::log_line(char kind, std::string line) {
  const auto now = std::chrono::steady_clock::now();
  if (now - log_second_ > std::chrono::seconds(1)) {
    log_second_ = now;
    lines_in_second_ = 0;
  }
  if (++lines_in_second_ > most_lines_in_second) return;
  line = without_control_characters(std::move(line));
  switch (static_cast<Report>(kind)) {
    case Report::error:
      log_.error(line);
      break;
    case Report::warning:
      log_.warning(line);
      break;
    default:
      log_.info(line);
  }
}

void Broker::handle_reports(const std::function<void(const std::string&)>& on_ready) {
  std::array<char, longest_report> text{};
  ssize_t count = 0;
  while ((count = ::recv(reports_.get(), text.data(), text.size(), MSG_DONTWAIT)) > 0) {
    const std::string line(text.data() + 1, static_cast<std::size_t>(count) - 1);
    switch (static_cast<Report>(text[0])) {
      case Report::ready:
        if (!std::exchange(told_ready_, true)) on_ready(line);
        break;
      case Report::refused:
        if (!told_ready_) refusal_ = without_control_characters(line);
        break;
      default:
        log_line(text[0], line);
    }
  }
  // At its end poll would tell of it until the process is reaped.
  if (count == 0) reports_ = core::FileDescriptor();
}

// --- passthrough ---

std::int32_t Broker::open_backing(const core::FileDescriptor& file) {
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return -EBADF;
  if (!S_ISREG(status.st_mode)) return -EINVAL;
  if (backings_.size() >= most_backings) return -ENFILE;
  fuse::BackingMap map{file.get(), 0, 0};
  const int id = ::ioctl(device_.get(), fuse::backing_open, &map);
  if (id <= 0) return -errno;
  backings_.insert(id);
  return id;
}

void Broker::handle_requests() {
  BrokerRequest request{};
  iovec piece{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const auto count = ::recvmsg(requests_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (count == 0) requests_ = core::FileDescriptor();
  core::FileDescriptor file;
  const auto* rights = count > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
      rights->cmsg_len == CMSG_LEN(sizeof(int))) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    file = core::FileDescriptor(fd);
  }
  if (count != sizeof request) return;
  if (request.kind == BrokerRequest::open_backing) {
    const BrokerReply reply{open_backing(file)};
    (void)::send(requests_.get(), &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT);
  } else if (request.kind == BrokerRequest::close_backing && backings_.erase(request.id) == 1) {
    const auto id = static_cast<std::uint32_t>(request.id);
    (void)::ioctl(device_.get(), fuse::backing_close, &id);
  }
}

}  // namespace cowfs::hostfs
