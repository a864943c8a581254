#include "hostfs/worker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "fuse/session.hpp"
#include "hostfs/broker_protocol.hpp"
#include "hostfs/export_file_system.hpp"
#include "hostfs/sandbox.hpp"

namespace cowfs::hostfs {
namespace {

/// Says it to the process outside.
class ReportLog final : public fuse::Log {
 public:
  void info(const std::string& line) override { report(Report::info, line); }
  void warning(const std::string& line) override { report(Report::warning, line); }
  void error(const std::string& line) override { report(Report::error, line); }

  /// False if nobody is there to hear it.
  static bool report(Report kind, const std::string& text) {
    const auto message = (static_cast<char>(kind) + text).substr(0, longest_report);
    // A log that is full loses lines rather than stopping who writes them.
    const int wait =
        kind == Report::info || kind == Report::warning || kind == Report::error ? MSG_DONTWAIT : 0;
    const auto sent =
        ::send(WorkerDescriptors::reports, message.data(), message.size(), MSG_NOSIGNAL | wait);
    return sent >= 0 || (errno != EPIPE && errno != ECONNRESET);
  }
};

unsigned choose_threads(unsigned wanted) {
  return wanted > 0 ? wanted : std::clamp(2 * std::thread::hardware_concurrency(), 4U, 16U);
}

std::optional<FileKey> key_of(const boost::filesystem::path& directory) {
  struct stat status {};
  if (directory.empty() || ::stat(directory.c_str(), &status) != 0) return std::nullopt;
  return FileKey{status.st_dev, status.st_ino};
}

core::FileDescriptor broker_socket() {
  struct stat status {};
  const bool is_socket =
      ::fstat(WorkerDescriptors::broker, &status) == 0 && S_ISSOCK(status.st_mode);
  return core::FileDescriptor(is_socket ? WorkerDescriptors::broker : -1);
}

std::vector<std::byte> read_init(const fuse::Device& device) {
  std::vector<std::byte> request(1 << 16);  // the kernel wants room for 8 KiB at least
  for (;;) {
    std::size_t length = 0;
    switch (device.receive(request, length)) {
      case fuse::Device::Received::request:
        request.resize(length);
        return request;
      case fuse::Device::Received::interrupted:
        continue;
      case fuse::Device::Received::closed:
        throw std::runtime_error("the mount is gone before it was served");
      case fuse::Device::Received::needs_room:
        throw std::runtime_error("/dev/fuse: the first request is too long");
    }
  }
}

void serve(const WorkerOptions& worker) {
  const auto& options = worker.options;
  const bool is_root = ::geteuid() == 0;
  enter_namespaces(options.sandbox);
  const auto hidden = key_of(worker.hidden);
  // Counted before the jail hides the processors' list.
  const auto threads = choose_threads(options.threads);
  auto jail = enter_jail(worker.directory, core::FileDescriptor(WorkerDescriptors::directory),
                         options, WorkerDescriptors::directory);
  drop_privileges(options, is_root, jail);

  ReportLog log;
  const fuse::Device device{core::FileDescriptor(WorkerDescriptors::device)};
  ExportSetup setup;
  setup.options = options;
  setup.root = core::FileDescriptor(::fcntl(jail.root.get(), F_DUPFD_CLOEXEC, 0));
  setup.own_files = core::FileDescriptor(::fcntl(jail.own_files.get(), F_DUPFD_CLOEXEC, 0));
  setup.broker = broker_socket();
  setup.host_path = worker.directory.string();
  setup.hidden = hidden;
  setup.is_root = is_root && !options.as;
  setup.daemon = worker.daemon;
  ExportFileSystem file_system(std::move(setup), device, log);
  fuse::Session session(device, file_system, threads, log);
  auto init = read_init(device);
  session.negotiate(init);
  const auto about =
      describe_confinement(jail) +
      fmt::format("Kernel passthrough: {}\n", file_system.uses_passthrough() ? "yes" : "no");
  // If the process outside died before this one was bound to it, no signal has told so.
  if (!ReportLog::report(Report::ready, about)) {
    throw std::runtime_error("the process outside of the jail is gone");
  }
  session.run();
}

}  // namespace

int run_worker(const WorkerOptions& worker) {
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "cowfs");  // it was executed as /proc/self/exe
  try {
    serve(worker);
    return 0;
  } catch (const std::exception& error) {
    ReportLog::report(Report::refused, error.what());
    ReportLog::report(Report::error, error.what());
    return 1;
  }
}

}  // namespace cowfs::hostfs
