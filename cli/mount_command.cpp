#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <thread>

#include "cli/background.hpp"
#include "cli/command.hpp"
#include "cli/mount_options.hpp"
#include "cli/signal_watcher.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "fuse/commit_timer.hpp"
#include "fuse/mount.hpp"

namespace cowfs::cli {
namespace {

namespace fs = boost::filesystem;

struct MountArguments {
  std::string image;  ///< COW[,BACKING]
  std::string mount_point;
  std::vector<std::string> options;
  bool foreground = false;
  bool from_mount = false;
};

/// As UML takes it: the first comma ends the COW's name.
std::pair<fs::path, std::optional<fs::path>> split_image(const std::string& image) {
  const auto comma = image.find(',');
  if (comma == std::string::npos) return {image, std::nullopt};
  return {image.substr(0, comma), image.substr(comma + 1)};
}

fuse::RootKind root_kind(const fs::path& mount_point) {
  boost::system::error_code error;
  switch (fs::status(mount_point, error).type()) {
    case fs::directory_file:
      return fuse::RootKind::directory;
    case fs::regular_file:
      return fuse::RootKind::file;
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

unsigned choose_threads(unsigned wanted) {
  return wanted > 0 ? wanted : std::clamp(2 * std::thread::hardware_concurrency(), 4U, 16U);
}

/// A daemon that the kernel writes memory out through must not wait for memory to be written out.
/// Threads inherit it. Returns what to warn of.
std::string become_io_flusher() {
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) return {};
  return fmt::format("cannot become an I/O flusher ({}); going on without", std::strerror(errno));
}

/// One mount, from open to the last flush.
class ImageMount {
 public:
  ImageMount(const MountArguments& arguments, const ImageMountOptions& options,
             fuse::SystemLog& log)
      : log_(log),
        options_(options),
        mount_point_(fs::absolute(arguments.mount_point)),
        root_(root_kind(mount_point_)),
        foreground_(arguments.foreground) {
    open(arguments.image);
    mount_point_ = fs::canonical(mount_point_);
  }

  int serve(const Ready& ready) {
    block_stop_signals();
    const auto warning = become_io_flusher();
    const fuse::Device device(fuse::mount({.mount_point = mount_point_,
                                           .source = source_.string(),
                                           .subtype = "cowfs",
                                           .read_only = image_->read_only(),
                                           .allow_other = options_.allow_other}));
    try {
      serve_on(device, [&] {
        ready();
        if (!foreground_) log_.use_syslog();
        if (!warning.empty()) log_.warning(warning);
      });
    } catch (...) {
      detach();
      throw;
    }
    image_->flush();
    return exit_done;
  }

 private:
  void open(const std::string& name) {
    const auto [cow, backing] = split_image(name);
    source_ = fs::absolute(cow);
    auto opened = core::open_cow(
        cow, backing, options_.read_only ? core::Access::read_only : core::Access::read_write);
    for (const auto& notice : opened.notices) log_.info(notice);
    image_ =
        std::make_unique<core::CowImage>(std::move(opened.cow), std::move(opened.backing),
                                         opened.layout, opened.access == core::Access::read_only);
  }

  void serve_on(const fuse::Device& device, const Ready& ready) {
    fuse::ImageFileSystem file_system(*image_, device, root_, options_.cache, log_);
    fuse::Session session(device, file_system, log_);
    std::optional<fuse::CommitTimer> timer;
    if (options_.commit.count() > 0) timer.emplace(*image_, options_.commit, log_);
    const SignalWatcher watcher([&](int signal) { stop(file_system, session, signal); });
    session.run(choose_threads(options_.threads), ready);
  }

  void stop(fuse::ImageFileSystem& file_system, fuse::Session& session, int signal) {
    log_.info(fmt::format("{}: stopping on signal {}", mount_point_.string(), signal));
    try {
      fuse::unmount(mount_point_, fuse::Detach::if_idle);
    } catch (const std::system_error&) {
      log_.warning(fmt::format("{}: stopped while in use; its users get errors from now on",
                               mount_point_.string()));
      detach();
    }
    file_system.prepare_to_stop();
    session.stop();
  }

  void detach() {
    try {
      fuse::unmount(mount_point_, fuse::Detach::now);
    } catch (const std::system_error& error) {
      log_.warning(error.what());
    }
  }

  fuse::SystemLog& log_;
  ImageMountOptions options_;
  fs::path mount_point_;
  fs::path source_;
  fuse::RootKind root_;
  bool foreground_;
  std::unique_ptr<core::CowImage> image_;
};

int mount(const MountArguments& arguments, std::ostream& err) {
  const auto options = parse_mount_options(
      arguments.options, arguments.from_mount ? GenericOptions::ignore : GenericOptions::refuse);
  const auto serve = [&](const Ready& ready) {
    fuse::SystemLog log;
    return perform([&] { return ImageMount(arguments, options, log).serve(ready); },
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
                   "commit=SECONDS (default 5), threads=N")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  command->add_flag("--foreground,-f", arguments->foreground, "Stay in the foreground");
  command->add_flag("--from-mount", arguments->from_mount)->group("");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return mount(*arguments, streams.err); };
  });
}

}  // namespace cowfs::cli
