#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/merge.hpp"

namespace cowfs::cli {
namespace {

struct MergeArguments {
  std::string image;  ///< COW[,BACKING]
  std::string output;
  bool force = false;
  bool quiet = false;
};

int merge_to_file(const MergeArguments& arguments, const Streams& streams) {
  const auto [cow, backing] = split_image(arguments.image);
  core::MergeResult result;
  {
    ProgressLine line(streams.err, {.doing = "merging into",
                                    .file = arguments.output,
                                    .cancelled = "nothing has been written",
                                    .shown = progress_is_shown(arguments.quiet)});
    result = core::merge_cow(
        cow, arguments.output,
        {.backing = backing,
         .if_exists = arguments.force ? core::IfExists::replace : core::IfExists::refuse,
         .progress = line.callback()});
  }
  for (const auto& notice : result.notices) fmt::print(streams.err, "cowfs: {}\n", notice);
  if (result.rounded_up) {
    fmt::print(streams.err,
               "cowfs: {}: has {} bytes, {} more than the backing, because the COW holds data past "
               "the backing's end\n",
               arguments.output, result.size, result.size - result.backing_size);
  }
  return exit_done;
}

}  // namespace

void add_merge_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<MergeArguments>();
  auto* command = app.add_subcommand("merge", "Make one plain image of a COW and its backing");
  command->add_option("COW", arguments->image, "The COW file; COW,BACKING to name its backing")
      ->required();
  command->add_option("OUTPUT", arguments->output, "The image to make")->required();
  command->add_flag("--force", arguments->force, "Replace OUTPUT if it exists");
  command->add_flag("--quiet", arguments->quiet, "Show no progress");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return merge_to_file(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
