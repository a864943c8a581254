#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <memory>
#include <system_error>

#include "cli/command.hpp"
#include "cli/mounted.hpp"
#include "cowcore/errors.hpp"
#include "fuse/mount.hpp"

namespace cowfs::cli {
namespace {

/// The daemon behind a mount, kept so that its end can be awaited.
class Daemon {
 public:
  /// Finds it and asks it to put everything on disk. A daemon that is dead already is no error.
  explicit Daemon(const Mounted& mounted) {
    const auto control = open_for_control(mounted);
    if (!control) return;
    if (const auto status = ask_daemon(control)) process_ = hold_process(mounted, status->pid);
    // What is written through an export is in the host's own cache.
    if (!mounted.is_export && ::fsync(control.get()) != 0) sync_error_ = errno;
  }

  [[nodiscard]] int sync_error() const { return sync_error_; }

  void wait_for_end() const {
    if (!process_) return;
    pollfd wait{process_.get(), POLLIN, 0};
    while (::poll(&wait, 1, -1) < 0 && errno == EINTR) {
    }
  }

 private:
  core::FileDescriptor process_;
  int sync_error_ = 0;
};

struct Arguments {
  std::string mount_point;
  bool force = false;
};

int umount_by_force(const std::string& mount_point) {
  fuse::unmount(find_mount(mount_point).target, fuse::Detach::by_force);
  return exit_done;
}

int umount(const std::string& mount_point) {
  const auto mounted = find_mount(mount_point);
  const Daemon daemon(mounted);
  try {
    fuse::unmount(mounted.target, fuse::Detach::if_idle);
  } catch (const std::system_error& error) {
    if (error.code().value() != EBUSY) throw;
    throw core::Busy(mount_point, "in use",
                     fmt::format("close what uses it; `fuser -vm {}` tells what", mount_point));
  }
  daemon.wait_for_end();
  if (daemon.sync_error() != 0) {
    throw std::system_error(daemon.sync_error(), std::generic_category(),
                            mount_point + ": unmounted, but not all writes are on disk");
  }
  return exit_done;
}

}  // namespace

void add_umount_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  const auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "umount", "Unmount; returns when everything is on disk and the daemon is gone");
  command
      ->add_option("MOUNTPOINT", arguments->mount_point, "Where the image or directory is mounted")
      ->required();
  command->add_flag("--force", arguments->force,
                    "Ask nobody: for a daemon that is gone or hangs; users get errors");
  command->callback([&chosen, arguments] {
    chosen = [arguments] {
      return arguments->force ? umount_by_force(arguments->mount_point)
                              : umount(arguments->mount_point);
    };
  });
}

}  // namespace cowfs::cli
