#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <ostream>

#include "cli/background.hpp"
#include "cli/command.hpp"
#include "cli/export_options.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/pending_file.hpp"
#include "fuse/mount.hpp"
#include "hostfs/broker.hpp"

namespace cowfs::cli {
namespace {

namespace fs = boost::filesystem;

struct ExportArguments {
  std::string directory;
  std::string mount_point;
  std::vector<std::string> options;
  std::string sandbox = "namespace";
  bool i_know = false;
  bool explain = false;
  bool foreground = false;
  bool from_mount = false;
};

/// Where both are, without links.
struct Places {
  fs::path directory;
  fs::path mount_point;
  core::FileDescriptor opened;  ///< the directory, O_PATH
};

bool lies_below(const fs::path& path, const fs::path& directory) {
  const auto part = std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return part.first == directory.end();
}

fs::path canonical_directory(const std::string& name, const char* what) {
  boost::system::error_code error;
  auto path = fs::canonical(name, error);
  if (error) {
    throw core::Error(name, fmt::format("is no {}: {}", what, error.message()),
                      error.value() == ENOTCONN
                          ? "the daemon of an earlier mount has died: `cowfs umount` it first"
                          : "give a directory that can be reached");
  }
  if (!fs::is_directory(path, error)) {
    throw core::Error(name, "is no directory", fmt::format("give a directory as {}", what));
  }
  return path;
}

Places find_places(const ExportArguments& arguments, const hostfs::ExportOptions& options) {
  Places places;
  places.directory = canonical_directory(arguments.directory, "directory to export");
  places.mount_point = canonical_directory(arguments.mount_point, "mount point");
  places.opened = core::FileDescriptor(
      ::open(places.directory.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!places.opened) {
    throw std::system_error(errno, std::generic_category(), arguments.directory);
  }
  const auto run = core::run_directory();
  boost::system::error_code unknown;
  if (run && lies_below(places.directory, fs::weakly_canonical(*run, unknown))) {
    throw core::Error(arguments.directory, "holds what belongs to running mounts",
                      "export another directory");
  }
  // The worker would wait for itself.
  if (options.submounts && lies_below(places.mount_point, places.directory)) {
    throw core::Error(arguments.mount_point, "lies in the exported directory",
                      "mount somewhere else, or without submounts=yes");
  }
  return places;
}

/// What the worker is started with.
std::vector<std::string> worker_command(const ExportArguments& arguments, const Places& places) {
  std::vector<std::string> command{"cowfs",           "serve-export", "--sandbox",
                                   arguments.sandbox, "--daemon",     std::to_string(::getpid())};
  for (const auto& list : arguments.options) {
    command.emplace_back("-o");
    command.push_back(list);
  }
  if (const auto run = core::run_directory()) {
    command.emplace_back("--hidden");
    command.push_back(run->string());
  }
  command.insert(command.end(), {"--", places.directory.string()});
  return command;
}

void take_away(const fs::path& mount_point, int signal, fuse::Log& log) {
  log.info(fmt::format("{}: stopping on signal {}", mount_point.string(), signal));
  try {
    fuse::unmount(mount_point, fuse::Detach::if_idle);
    return;
  } catch (const std::system_error&) {
    log.warning(fmt::format("{}: stopped while in use; its users get errors from now on",
                            mount_point.string()));
  }
  fuse::detach(mount_point, log);
}

/// Mounts, and keeps the worker's company until the mount's end.
int serve(const ExportArguments& arguments, const hostfs::ExportOptions& options,
          const Ready& ready, std::ostream& out, fuse::SystemLog& log) {
  const auto places = find_places(arguments, options);
  const bool is_root = ::geteuid() == 0;
  // Alone in it, an ordinary user is judged by the host's kernel itself, at each call; what others
  // may do, and what owners that are only kept may do, the mount's kernel must judge.
  const bool kernel_checks = is_root || options.allow_other ||
                             options.metadata == hostfs::MetadataPolicy::xattr ||
                             !options.users.is_identity();
  hostfs::BrokerOptions broker_options;
  broker_options.command = worker_command(arguments, places);
  broker_options.directory = places.opened.get();
  broker_options.passthrough = is_root && options.passthrough;
  broker_options.as = options.as;
  hostfs::Broker broker(fuse::mount({.mount_point = places.mount_point,
                                     .source = places.directory.string(),
                                     .subtype = "cowfs-export",
                                     .read_only = options.read_only,
                                     .allow_other = options.allow_other,
                                     .default_permissions = kernel_checks}),
                        broker_options, log);
  int status = -1;
  try {
    status = broker.run(
        [&](const std::string& in_force) {
          if (arguments.explain) out << in_force << std::flush;
          ready();
          if (!arguments.foreground) log.use_syslog();
        },
        [&](int signal) { take_away(places.mount_point, signal, log); });
  } catch (...) {
    fuse::detach(places.mount_point, log);
    throw;
  }
  if (status == exit_done) return exit_done;
  fuse::detach(places.mount_point, log);
  return exit_failed;
}

void require_root_for(const hostfs::ExportOptions& options) {
  if (::geteuid() == 0) return;
  if (options.as) throw UsageError("-o as=: only root can work as somebody else");
  if (options.squash != hostfs::Squash::none) {
    throw UsageError("-o squash: an ordinary user's export works as that user already");
  }
  if (options.sandbox == hostfs::SandboxKind::chroot) {
    throw UsageError("--sandbox=chroot: only root can change the root; take namespace");
  }
}

int export_directory(const ExportArguments& arguments, const Streams& streams) {
  auto options = parse_export_options(
      arguments.options, arguments.from_mount ? GenericOptions::ignore : GenericOptions::refuse);
  options.sandbox = parse_sandbox(arguments.sandbox);
  require_root_for(options);
  if (options.sandbox == hostfs::SandboxKind::none && ::geteuid() == 0 && !arguments.i_know) {
    throw UsageError(
        "--sandbox=none: as root a fault in the daemon would be the whole host's; add --i-know if "
        "that is meant");
  }
  const auto run = [&](const Ready& ready) {
    fuse::SystemLog log;
    return perform([&] { return serve(arguments, options, ready, streams.out, log); },
                   [&log](const std::string& line) { log.error(line); });
  };
  return arguments.foreground ? run([] {}) : run_in_background(run, streams.err);
}

}  // namespace

void add_export_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<ExportArguments>();
  auto* command = app.add_subcommand(
      "export", "Mount a directory in a jail: nothing outside of it can be reached");
  command->add_option("DIR", arguments->directory, "The directory to show")->required();
  command->add_option("MOUNTPOINT", arguments->mount_point, "A directory to mount on")->required();
  command
      ->add_option("-o", arguments->options,
                   "ro, allow_other, as=USER[:GROUP], map={u|g|b}:INSIDE:OUTSIDE:COUNT, "
                   "squash=none|root|all, anon=UID[:GID], metadata=host|xattr, "
                   "symlinks=keep|inside|refuse, submounts=no|yes, devices=no|yes, "
                   "xattrs=none|user|acl, cache=auto|always|never, timeout=SECONDS (default 1), "
                   "passthrough=on|off, max-inodes=N, max-open=N, threads=N")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  command->add_option("--sandbox", arguments->sandbox, "namespace (default), chroot or none")
      ->type_name("KIND");
  command->add_flag("--i-know", arguments->i_know, "Needed for --sandbox=none as root");
  command->add_flag("--explain", arguments->explain, "Print what is in force once it serves");
  command->add_flag("--foreground,-f", arguments->foreground, "Stay in the foreground");
  command->add_flag("--from-mount", arguments->from_mount)->group("");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return export_directory(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
