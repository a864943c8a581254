#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <system_error>
#include <thread>

#include "cli/command.hpp"
#include "cli/mounted.hpp"
#include "cowcore/errors.hpp"

namespace cowfs::cli {
namespace {

constexpr std::chrono::seconds longest_restart{60};

fuse::DaemonStatus require_status(const Mounted& mounted) {
  const auto status = ask_daemon(open_for_control(mounted));
  if (!status) {
    throw core::Error(mounted.target.string(), "its daemon is dead",
                      "`cowfs umount` it and mount again");
  }
  return *status;
}

int restart(const std::string& mount_point) {
  const auto mounted = find_mount(mount_point);
  if (mounted.is_export) {
    throw core::Error(mount_point, "is an export, whose worker can't be replaced",
                      "`cowfs umount` it and export again");
  }
  const auto before = require_status(mounted);
  if (before.replaceable == 0) {
    throw core::Error(mount_point, "its worker can't be replaced",
                      "that takes Linux 6.9 and a mount without pending=off");
  }
  const auto supervisor = hold_process(mounted, before.pid);
  if (!supervisor || ::syscall(SYS_pidfd_send_signal, supervisor.get(), SIGUSR1, nullptr, 0) != 0) {
    throw core::Error(mount_point, "its supervisor can't be reached",
                      "`cowfs umount` it and mount again");
  }
  const auto give_up = std::chrono::steady_clock::now() + longest_restart;
  // To ask is to wait for the new worker: the old one no longer answers, or names itself.
  while (require_status(mounted).worker == before.worker) {
    if (std::chrono::steady_clock::now() > give_up) {
      throw core::Error(mount_point, "its worker was not replaced", "see the system log");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return exit_done;
}

}  // namespace

void add_restart_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  const auto mount_point = std::make_shared<std::string>();
  auto* command = app.add_subcommand(
      "restart", "Replace the worker of a mount, e.g. after an upgrade; its users only wait");
  command->add_option("MOUNTPOINT", *mount_point, "Where the image is mounted")->required();
  command->callback(
      [&chosen, mount_point] { chosen = [mount_point] { return restart(*mount_point); }; });
}

}  // namespace cowfs::cli
