#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/command.hpp"
#include "cli/mount_options.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/make_image.hpp"
#include "cowcore/sector.hpp"

namespace cowfs::cli {
namespace {

struct MakeImageOptions {
  std::string kind;
  std::string size;
  std::string file;
  bool force = false;
};

int make(const MakeImageOptions& options, const Streams& streams) {
  const auto size = parse_size(options.size);
  if (size == 0 || size % core::sector_bytes != 0) {
    throw UsageError(
        fmt::format("'{}': an image has a multiple of 512 bytes, and not none", options.size));
  }
  ProgressLine progress(streams.err, {.doing = "making",
                                      .file = options.file,
                                      .cancelled = "nothing is left behind",
                                      .shown = false});
  core::make_image(options.kind, size, options.file,
                   options.force ? core::IfExists::replace : core::IfExists::refuse,
                   progress.callback());
  return exit_done;
}

}  // namespace

void add_mkimage_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<MakeImageOptions>();
  auto* command = app.add_subcommand("mkimage", "Make a sparse image with an empty file system");
  command->add_option("FS", options->kind, "ext2, ext3, ext4, xfs, btrfs or swap")
      ->required()
      ->check(CLI::IsMember(core::image_kinds()));
  command->add_option("SIZE", options->size, "Its size: 512M, 8G, 2T")->required();
  command->add_option("FILE", options->file, "The image to make")->required();
  command->add_flag("--force", options->force, "Replace an existing file: its content is lost");
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return make(*options, streams); };
  });
}

}  // namespace cowfs::cli
