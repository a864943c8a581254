#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>
#include <vector>

#include "cli/command.hpp"
#include "cli/consent.hpp"
#include "cli/image_name.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/merge.hpp"
#include "cowcore/merge_in_place.hpp"

namespace cowfs::cli {
namespace {

struct MergeArguments {
  std::string image;  ///< COW[,BACKING]
  std::string output;
  bool force = false;
  bool quiet = false;
  bool in_place = false;
  bool remove = false;
  bool yes = false;
  std::vector<std::string> siblings;
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

/// What the user has to know before it begins.
std::string consequence(const core::InPlaceMerge& merge) {
  const auto kept = merge.siblings();
  if (kept == 0) return "will be changed: every other COW of this backing becomes invalid";
  return fmt::format(
      "will be changed: every other COW of this backing becomes invalid, but for the {} sibling{} "
      "named",
      kept, kept == 1 ? "" : "s");
}

int merge_in_place(const MergeArguments& arguments, const Streams& streams) {
  const auto [cow, backing] = split_image(arguments.image);
  core::InPlaceOptions options;
  options.backing = backing;
  options.siblings.assign(arguments.siblings.begin(), arguments.siblings.end());
  options.remove_cow = arguments.remove;
  core::InPlaceMerge merge(cow, std::move(options));
  for (const auto& notice : merge.notices()) fmt::print(streams.err, "cowfs: {}\n", notice);
  if (merge.goes_on()) {
    fmt::print(streams.err, "cowfs: {}: goes on with the merge that was interrupted\n",
               merge.backing_name());
  } else {
    ask_or_require_yes(streams, arguments.yes, merge.backing_name(), consequence(merge));
  }
  ProgressLine line(streams.err, {.doing = "merging into",
                                  .file = merge.backing_name(),
                                  .cancelled = {},
                                  .shown = progress_is_shown(arguments.quiet)});
  merge.run(line.callback());
  return exit_done;
}

int merge(const MergeArguments& arguments, const Streams& streams) {
  if (arguments.in_place != arguments.output.empty()) {
    throw UsageError("give either OUTPUT or --in-place; see `cowfs merge --help`");
  }
  return arguments.in_place ? merge_in_place(arguments, streams)
                            : merge_to_file(arguments, streams);
}

}  // namespace

void add_merge_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<MergeArguments>();
  auto* command = app.add_subcommand("merge", "Make one plain image of a COW and its backing");
  command->add_option("COW", arguments->image, "The COW file; COW,BACKING to name its backing")
      ->required();
  auto* output = command->add_option("OUTPUT", arguments->output, "The image to make");
  auto* force = command->add_flag("--force", arguments->force, "Replace OUTPUT if it exists");
  auto* in_place = command
                       ->add_flag("--in-place", arguments->in_place,
                                  "Merge into the backing itself, and make the COW empty")
                       ->excludes(output)
                       ->excludes(force);
  command->add_flag("--delete", arguments->remove, "In place: remove the COW instead")
      ->needs(in_place);
  command->add_flag("--yes", arguments->yes, "In place: do not ask")->needs(in_place);
  command
      ->add_option("--siblings", arguments->siblings,
                   "In place: other COWs of the backing, which keep their content")
      ->type_name("COW")
      ->needs(in_place);
  command->add_flag("--quiet", arguments->quiet, "Show no progress");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return merge(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
