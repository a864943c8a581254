// The worker of a mount: started by the supervisor, not by people.

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "cli/background.hpp"
#include "cli/command.hpp"
#include "cli/mount_options.hpp"
#include "cli/signal_watcher.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"
#include "fuse/commit_timer.hpp"
#include "fuse/heartbeat.hpp"
#include "fuse/image_file_system.hpp"
#include "fuse/init_request.hpp"
#include "fuse/mount.hpp"
#include "fuse/session.hpp"
#include "fuse/supervisor.hpp"

namespace cowfs::cli {
namespace {

using fuse::WorkerDescriptors;

struct ServeArguments {
  std::string cow;
  std::string backing;
  std::string mount_point;
  std::vector<std::string> options;
  bool directory = false;
  bool foreground = false;
  bool takeover = false;
};

/// A daemon that the kernel writes memory out through must not wait for memory to be written out.
/// Threads inherit it. Returns what is to be warned of.
std::string become_io_flusher() {
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) return {};
  return fmt::format("cannot become an I/O flusher ({}); going on without", std::strerror(errno));
}

/// Takes over a descriptor that the supervisor has left open.
core::FileDescriptor inherited(int number) {
  core::FileDescriptor fd(::fcntl(number, F_DUPFD_CLOEXEC, WorkerDescriptors::backing + 1));
  if (!fd) {
    throw std::system_error(errno, std::generic_category(),
                            "`cowfs serve` is started by `cowfs mount` only");
  }
  ::close(number);
  return fd;
}

class Worker {
 public:
  Worker(const ServeArguments& arguments, fuse::SystemLog& log)
      : arguments_(arguments),
        options_(parse_mount_options(arguments.options, GenericOptions::ignore)),
        log_(log),
        device_(inherited(WorkerDescriptors::device)),
        init_(inherited(WorkerDescriptors::init), "INIT request"),
        control_(inherited(WorkerDescriptors::control)) {
    const bool read_only = (::fcntl(WorkerDescriptors::cow, F_GETFL) & O_ACCMODE) == O_RDONLY;
    open_image(read_only);
  }

  int serve() {
    const bool ended = serve_until_stopped();
    image_->flush();
    if (!ended) return fuse::worker_replace_status;
    if (pending_ != nullptr) pending_->remove();
    return exit_done;
  }

 private:
  void open_image(bool read_only) {
    auto cow =
        std::make_unique<core::PosixStorage>(inherited(WorkerDescriptors::cow), arguments_.cow);
    auto backing = std::make_unique<core::PosixStorage>(inherited(WorkerDescriptors::backing),
                                                        arguments_.backing);
    const auto description = core::describe_cow(*cow);
    header_ = description.header;
    if (read_only || !options_.pending) {
      image_ = std::make_unique<core::CowImage>(std::move(cow), std::move(backing),
                                                description.layout, read_only);
      return;
    }
    auto pending = make_pending_file(*cow, description);
    pending_ = pending.get();
    image_ = std::make_unique<core::CowImage>(core::watch_writes(std::move(cow), *pending_),
                                              std::move(backing), description.layout, read_only,
                                              std::move(pending));
  }

  std::unique_ptr<core::PendingFile> make_pending_file(const core::PosixStorage& cow,
                                                       const core::CowDescription& description) {
    static constexpr auto advice =
        "mend that, or mount with -o pending=off: then a daemon that is "
        "killed loses what was written since the last flush";
    const auto directory = core::run_directory();
    if (!directory) throw core::Error("XDG_RUNTIME_DIR", "is not set", advice);
    try {
      return std::make_unique<core::PendingFile>(*directory, cow, description,
                                                 arguments_.takeover
                                                     ? core::PendingFile::Existing::adopt
                                                     : core::PendingFile::Existing::replace);
    } catch (const std::exception& error) {
      throw core::Error(cow.name(), std::string("no pending file: ") + error.what(), advice);
    }
  }

  /// Whether the mount has ended; or else another worker is to go on.
  bool serve_until_stopped() {
    fuse::BackingGuard guard(*image_, header_, options_.backing_change, log_);
    fuse::ImageFileSystem file_system(
        *image_, device_, arguments_.directory ? fuse::RootKind::directory : fuse::RootKind::file,
        options_.cache, guard, log_);
    fuse::Session session(device_, file_system,
                          options_.threads > 0 ? options_.threads : fuse::default_threads(), log_);
    const auto init = read_init();
    file_system.set_replaceable(options_.pending &&
                                (fuse::offered_flags2(init) & fuse::has_resend) != 0);
    session.negotiate(init);
    if (arguments_.takeover) {
      file_system.assume_cached_opens();
      device_.request_resend();
    }
    if (!arguments_.foreground) {
      log_.use_syslog();
      let_go_of_terminal();
    }
    if (const auto problem = become_io_flusher(); !problem.empty() && !arguments_.takeover) {
      log_.warning(problem);
    }
    guard.check();
    const fuse::Heartbeat heartbeat(
        std::move(control_), [&] { return session.is_serving(); }, log_);
    if (!image_->read_only() && !options_.pending) {
      log_.warning(
          fmt::format("{}: mounted with pending=off: if the daemon is killed, what was "
                      "written since the last flush is lost",
                      arguments_.cow));
    }
    const fuse::CommitTimer timer(*image_, guard, options_.commit, log_);
    std::atomic<bool> ended = true;
    const SignalWatcher watcher([&](int signal) {
      ended = signal != SIGUSR1;
      if (ended) take_away_mount(signal);
      file_system.prepare_to_stop();
      session.stop();
    });
    session.run();
    return ended;
  }

  std::span<std::byte> read_init() {
    init_request_.resize(init_.status().size);
    init_.read(0, init_request_);
    return init_request_;
  }

  void take_away_mount(int signal) {
    log_.info(fmt::format("{}: stopping on signal {}", arguments_.mount_point, signal));
    try {
      fuse::unmount(arguments_.mount_point, fuse::Detach::if_idle);
      return;
    } catch (const std::system_error&) {
      log_.warning(fmt::format("{}: stopped while in use; its users get errors from now on",
                               arguments_.mount_point));
    }
    fuse::detach(arguments_.mount_point, log_);
  }

  const ServeArguments& arguments_;
  const ImageMountOptions options_;
  fuse::SystemLog& log_;
  const fuse::Device device_;
  const core::PosixStorage init_;
  std::vector<std::byte> init_request_;
  core::FileDescriptor control_;
  core::CowHeader header_;
  std::unique_ptr<core::CowImage> image_;
  core::PendingFile* pending_ = nullptr;  ///< belongs to the image; null if there is none
};

int serve(const ServeArguments& arguments) {
  ::signal(SIGPIPE, SIG_IGN);  // writing to a supervisor that is gone
  block_stop_signals();
  fuse::SystemLog log;
  if (arguments.takeover && !arguments.foreground) log.use_syslog();
  return perform([&] { return Worker(arguments, log).serve(); },
                 [&log](const std::string& line) { log.error(line); });
}

}  // namespace

void add_serve_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  const auto arguments = std::make_shared<ServeArguments>();
  auto* command = app.add_subcommand("serve", "The worker of a mount")->group("");
  command->add_option("COW", arguments->cow)->required();
  command->add_option("BACKING", arguments->backing)->required();
  command->add_option("MOUNTPOINT", arguments->mount_point)->required();
  command->add_option("-o", arguments->options)->allow_extra_args(false);
  command->add_flag("--directory", arguments->directory);
  command->add_flag("--foreground", arguments->foreground);
  command->add_flag("--takeover", arguments->takeover);
  command->callback([&chosen, arguments] { chosen = [arguments] { return serve(*arguments); }; });
}

}  // namespace cowfs::cli
