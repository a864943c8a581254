#include "fuse/supervisor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "fuse/init_request.hpp"
#include "fuse/page_cache.hpp"

namespace cowfs::fuse {
namespace {

/// Exit status of a child that could not become a worker.
constexpr int cannot_start_status = 98;

/// How often to look after a worker that gives no signs, in milliseconds.
constexpr int look_again = 1000;
/// A worker that is well gives a sign every second.
constexpr std::chrono::seconds suspicious_silence{2};

constexpr std::size_t most_deaths = 5;
constexpr std::chrono::seconds deaths_within{10};

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

sigset_t supervised_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD})
    ::sigaddset(&signals, signal);
  return signals;
}

/// In the child: puts the descriptors where the worker looks for them, and becomes it.
[[noreturn]] void become_worker(const std::vector<std::string>& command,
                                const std::array<int, 5>& descriptors) {
  // First out of the way of each other, then into place; dup2 also makes them survive the exec.
  std::array<int, 5> high{};
  constexpr int out_of_the_way = WorkerDescriptors::backing + 1;
  for (std::size_t i = 0; i < high.size(); ++i) {
    high[i] = ::fcntl(descriptors[i], F_DUPFD_CLOEXEC, out_of_the_way);
  }
  for (std::size_t i = 0; i < high.size(); ++i) {
    if (::dup2(high[i], WorkerDescriptors::device + static_cast<int>(i)) < 0) {
      ::_exit(cannot_start_status);
    }
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  // It is gone, or half-installed: then the one that runs here, which is kept as long as it does.
  ::execv("/proc/self/exe", arguments.data());
  ::_exit(cannot_start_status);
}

/// Whether a worker was killed, and nothing of it is left but the thread that waits in the kernel
/// for an answer that only the next worker can give. That thread writes no file, so nothing of the
/// dead worker's can come after what the next one writes.
bool waits_for_successor(pid_t worker) {
  namespace fs = boost::filesystem;
  const fs::path process = fmt::format("/proc/{}", worker);
  // A list of threads may lack some while others end; this number is exact. The main thread counts.
  fs::ifstream status(process / "status");
  std::string line;
  while (std::getline(status, line) && line.rfind("Threads:", 0) != 0) {
  }
  if (line != "Threads:\t2") return false;
  bool main_has_ended = false;
  bool other_drops_pages = false;
  boost::system::error_code error;
  for (fs::directory_iterator task(process / "task", error), none; !error && task != none;
       task.increment(error)) {
    fs::ifstream file(task->path() / "stat");  // "12 (name) S ..."
    std::getline(file, line);
    if (task->path().filename() == std::to_string(worker)) {
      main_has_ended = line.find(") Z ") != std::string::npos;
    } else {
      other_drops_pages = line.find(fmt::format(" ({}) ", dropping_thread)) != std::string::npos;
    }
  }
  return main_has_ended && other_drops_pages;
}

std::string how_it_died(int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("was killed by signal {} ({})", WTERMSIG(status),
                       ::sigdescr_np(WTERMSIG(status)));
  }
  return fmt::format("ended with status {}", WEXITSTATUS(status));
}

}  // namespace

Supervisor::Supervisor(core::FileDescriptor device, SupervisorOptions options, Log& log)
    : device_(std::move(device)), options_(std::move(options)), log_(log) {
  const auto signals = supervised_signals();
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  signals_ = core::FileDescriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) throw_errno("cannot make a signalfd");
}

/// Takes the connection's first request and keeps it for all workers to come.
void Supervisor::receive_init() {
  std::array<std::byte, 1 << 16> buffer;  // the kernel wants room for 8 KiB at least
  const auto count = ::read(device_.get(), buffer.data(), buffer.size());
  if (count < 0) throw_errno("/dev/fuse: cannot read");
  const auto request = std::span(buffer).first(static_cast<std::size_t>(count));
  can_resend_ = options_.take_over && (offered_flags2(request) & has_resend) != 0;
  if (!can_resend_ && options_.take_over) {
    log_.warning(about("this kernel is older than Linux 6.9: a worker that dies ends the mount"));
  }
  init_ = core::FileDescriptor(::memfd_create("cowfs-init", MFD_CLOEXEC));
  if (!init_ || ::write(init_.get(), buffer.data(), static_cast<std::size_t>(count)) != count) {
    throw_errno("cannot keep the INIT request");
  }
}

void Supervisor::start_worker(const std::vector<std::string>& command) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) throw_errno("cannot make a pipe");
  signs_ = core::FileDescriptor(pipe[0]);
  const core::FileDescriptor control(pipe[1]);
  worker_ = ::fork();
  if (worker_ < 0) throw_errno("cannot fork");
  if (worker_ == 0) {
    become_worker(command,
                  {device_.get(), init_.get(), control.get(), options_.cow, options_.backing});
  }
  worker_ready_ = false;
  last_sign_ = Clock::now();
}

std::string Supervisor::about(const std::string& what) const {
  return fmt::format("{}: {}", options_.name, what);
}

int Supervisor::run(const std::function<void()>& on_ready) {
  receive_init();
  start_worker(options_.command);
  for (;;) {
    std::array<pollfd, 2> wait{pollfd{signals_.get(), POLLIN, 0}, pollfd{signs_.get(), POLLIN, 0}};
    if (::poll(wait.data(), wait.size(), look_again) < 0 && errno != EINTR) {
      throw_errno("cannot poll");
    }
    handle_signs(on_ready);
    handle_signals();
    check_watchdog();
    switch (next_step()) {
      case Next::wait:
        break;
      case Next::take_over:
        start_worker(options_.takeover_command);
        break;
      case Next::end:
        return status_;
    }
  }
}

void Supervisor::handle_signs(const std::function<void()>& on_ready) {
  std::array<char, 64> bytes;
  ssize_t count = 0;
  while ((count = ::read(signs_.get(), bytes.data(), bytes.size())) > 0) {
    last_sign_ = Clock::now();
    const bool ready = std::find(bytes.begin(), bytes.begin() + count,
                                 static_cast<char>(WorkerSign::ready)) != bytes.begin() + count;
    worker_ready_ = worker_ready_ || ready;
    if (ready && !told_ready_) {
      told_ready_ = true;
      on_ready();
    }
  }
  // Its end comes before that of the worker, and poll would tell of it without end.
  if (count == 0) signs_ = core::FileDescriptor();
}

void Supervisor::handle_signals() {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
    switch (signal.ssi_signo) {
      case SIGCHLD:
        break;  // next_step looks
      case SIGUSR1:
        log_.info(about("replacing the worker"));
        ::kill(worker_, SIGUSR1);
        break;
      default:
        stopping_ = true;
        ::kill(worker_, SIGTERM);
    }
  }
}

void Supervisor::check_watchdog() {
  if (options_.watchdog.count() == 0 || Clock::now() - last_sign_ < options_.watchdog) return;
  log_.error(about(
      fmt::format("the worker has not answered for {} s; killing it", options_.watchdog.count())));
  ::kill(worker_, SIGKILL);
  last_sign_ = Clock::now();
}

void Supervisor::reap_lingering() {
  std::erase_if(lingering_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
}

Supervisor::Next Supervisor::next_step() {
  reap_lingering();
  int status = 0;
  if (::waitpid(worker_, &status, WNOHANG) != worker_) {
    if (Clock::now() - last_sign_ < suspicious_silence || !waits_for_successor(worker_)) {
      return Next::wait;
    }
    lingering_.push_back(worker_);
    return after_death("was killed");
  }
  if (!WIFEXITED(status)) return after_death(how_it_died(status));
  const bool can_take_over = told_ready_ && can_resend_ && !stopping_;
  if (WEXITSTATUS(status) == worker_replace_status && can_take_over) return Next::take_over;
  // One that could not even begin is like one that died: the next may fare better.
  if (!worker_ready_ && can_take_over) return after_death(how_it_died(status));
  status_ = WEXITSTATUS(status);
  if (status_ == cannot_start_status) {
    log_.error(about("cannot start a worker; is there a limit on open files (`ulimit -n`)?"));
    status_ = -1;
  }
  return Next::end;
}

Supervisor::Next Supervisor::after_death(const std::string& how) {
  const auto now = Clock::now();
  std::erase_if(deaths_, [now](auto death) { return now - death > deaths_within; });
  deaths_.push_back(now);
  status_ = -1;
  if (stopping_ || !told_ready_ || !can_resend_) {
    log_.error(about(fmt::format("the worker {}; the mount ends", how)));
    return Next::end;
  }
  if (deaths_.size() >= most_deaths) {
    log_.error(about(fmt::format("the worker {}, the {}th time in {} s; giving up, the mount ends",
                                 how, deaths_.size(), deaths_within.count())));
    return Next::end;
  }
  log_.warning(about(fmt::format("the worker {}; a new one takes over", how)));
  return Next::take_over;
}

}  // namespace cowfs::fuse
