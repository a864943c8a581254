#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <memory>
#include <optional>
#include <ostream>

#include "cli/background.hpp"
#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/mount_options.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "fuse/mount.hpp"
#include "fuse/supervisor.hpp"

namespace cowfs::cli {
namespace {

namespace fs = boost::filesystem;

/// For who reads in order through the page cache: a guest, a loop device.
constexpr std::size_t readahead = std::size_t{512} << 10;

struct MountArguments {
  std::string image;  ///< COW[,BACKING]
  std::string mount_point;
  std::vector<std::string> options;
  bool foreground = false;
  bool from_mount = false;
};

bool is_directory_mount(const fs::path& mount_point) {
  boost::system::error_code error;
  switch (fs::status(mount_point, error).type()) {
    case fs::directory_file:
      return true;
    case fs::regular_file:
      return false;
    case fs::file_not_found:
      throw core::Error(mount_point.string(), "there is no such file or directory to mount on",
                        "make an empty file or a directory first");
    case fs::status_error:
      throw core::Error(mount_point.string(), "cannot mount there: " + error.message(),
                        error.value() == ENOTCONN
                            ? "the daemon of an earlier mount has died: `cowfs umount` it first"
                            : "give a file or a directory that can be reached");
    default:
      throw core::Error(mount_point.string(), "is neither a file nor a directory",
                        "give a regular file or a directory to mount on");
  }
}

/// What the worker is started with.
std::vector<std::string> worker_command(const MountArguments& arguments, const fs::path& cow,
                                        const std::string& backing, const fs::path& mount_point,
                                        bool directory) {
  // The path, not /proc/self/exe itself: a worker that takes over runs what is installed by then.
  std::vector<std::string> command{fs::read_symlink("/proc/self/exe").string(), "serve"};
  if (directory) command.emplace_back("--directory");
  if (arguments.foreground) command.emplace_back("--foreground");
  for (const auto& list : arguments.options) {
    command.emplace_back("-o");
    command.push_back(list);
  }
  command.insert(command.end(), {"--", cow.string(), backing, mount_point.string()});
  return command;
}

/// Opens, mounts, and supervises until the mount's end.
int supervise(const MountArguments& arguments, const ImageMountOptions& options, const Ready& ready,
              fuse::SystemLog& log) {
  const bool directory = is_directory_mount(arguments.mount_point);
  const auto [cow, backing] = split_image(arguments.image);
  const auto opened = core::open_cow(
      cow, backing, options.read_only ? core::Access::read_only : core::Access::read_write);
  for (const auto& notice : opened.notices) log.info(notice);

  const auto mount_point = fs::canonical(arguments.mount_point);
  const auto source = fs::absolute(cow);
  fuse::SupervisorOptions supervisor_options;
  supervisor_options.name = mount_point.string();
  supervisor_options.command =
      worker_command(arguments, source, opened.backing->name(), mount_point, directory);
  supervisor_options.takeover_command = supervisor_options.command;
  supervisor_options.takeover_command.insert(supervisor_options.takeover_command.begin() + 2,
                                             "--takeover");
  supervisor_options.cow = opened.cow->descriptor();
  supervisor_options.backing = opened.backing->descriptor();
  supervisor_options.watchdog = options.watchdog;
  // Acknowledged writes would vanish under the users' eyes.
  supervisor_options.take_over = options.pending || opened.access == core::Access::read_only;

  fuse::Supervisor supervisor(fuse::mount({.mount_point = mount_point,
                                           .source = source.string(),
                                           .subtype = "cowfs",
                                           .read_only = opened.access == core::Access::read_only,
                                           .allow_other = options.allow_other}),
                              supervisor_options, log);
  int status = -1;
  try {
    status = supervisor.run([&] {
      fuse::set_readahead(mount_point, readahead);
      ready();
      if (!arguments.foreground) log.use_syslog();
    });
  } catch (...) {
    fuse::detach(mount_point, log);
    throw;
  }
  if (status == exit_done) return exit_done;
  // The worker could not start, failed, or died once too often: nobody serves the mount now.
  fuse::detach(mount_point, log);
  return status < 0 ? exit_failed : status;
}

int mount(const MountArguments& arguments, std::ostream& err) {
  const auto options = parse_mount_options(
      arguments.options, arguments.from_mount ? GenericOptions::ignore : GenericOptions::refuse);
  const auto serve = [&](const Ready& ready) {
    fuse::SystemLog log;
    return perform([&] { return supervise(arguments, options, ready, log); },
                   [&log](const std::string& line) { log.error(line); });
  };
  return arguments.foreground ? serve([] {}) : run_in_background(serve, err);
}

}  // namespace

void add_mount_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<MountArguments>();
  auto* command = app.add_subcommand("mount", "Mount a COW and its backing as one image");
  command
      ->add_option("COW", arguments->image,
                   "COW, or COW,BACKING if the backing is not where the COW says")
      ->required();
  command
      ->add_option("MOUNTPOINT", arguments->mount_point,
                   "A file, which becomes the image, or a directory, which gets it as \"disk\"")
      ->required();
  command
      ->add_option("-o", arguments->options,
                   "ro, allow_other, cache=window[:SIZE]|none|kernel (default window:16M), "
                   "commit=SECONDS (default 5), threads=N, watchdog=SECONDS (default 30), "
                   "pending=on|off (default on), backing-change=stop|warn (default stop)")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  command->add_flag("--foreground,-f", arguments->foreground, "Stay in the foreground");
  command->add_flag("--from-mount", arguments->from_mount)->group("");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return mount(*arguments, streams.err); };
  });
}

}  // namespace cowfs::cli
