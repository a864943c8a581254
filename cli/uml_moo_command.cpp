// cowfs under the name of uml_moo.

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/consent.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/merge.hpp"
#include "cowcore/merge_in_place.hpp"

namespace cowfs::cli {
namespace {

struct UmlMooOptions {
  std::string cow;
  std::string backing;
  std::string output;
  bool force = false;
  bool in_place = false;
};

int merge_to_file(const UmlMooOptions& options, const Streams& streams) {
  core::MergeResult result;
  {
    ProgressLine line(streams.err, {.doing = "merging into",
                                    .file = options.output,
                                    .cancelled = "nothing has been written",
                                    .shown = progress_is_shown(false)});
    core::MergeOptions how;
    if (!options.backing.empty()) how.backing = options.backing;
    how.if_exists = options.force ? core::IfExists::replace : core::IfExists::refuse;
    how.progress = line.callback();
    result = core::merge_cow(options.cow, options.output, how);
  }
  for (const auto& notice : result.notices) fmt::print(streams.err, "uml_moo: {}\n", notice);
  return exit_done;
}

int merge_in_place(const UmlMooOptions& options, const Streams& streams) {
  core::InPlaceOptions how;
  if (!options.backing.empty()) how.backing = options.backing;
  core::InPlaceMerge merge(options.cow, std::move(how));
  for (const auto& notice : merge.notices()) fmt::print(streams.err, "uml_moo: {}\n", notice);
  // Scripts give -d where nobody can be asked: it says what is meant.
  constexpr bool yes = true;
  ask_or_require_yes(streams, yes, merge.backing_name(),
                     "is changed: every other COW of this backing becomes invalid");
  ProgressLine line(streams.err, {.doing = "merging into",
                                  .file = merge.backing_name(),
                                  .cancelled = "the same again goes on with it",
                                  .shown = progress_is_shown(false)});
  merge.run(line.callback());
  return exit_done;
}

int merge(const UmlMooOptions& options, const Streams& streams) {
  if (options.in_place != options.output.empty()) {
    throw UsageError("give either OUTPUT or -d; see `uml_moo --help`");
  }
  return options.in_place ? merge_in_place(options, streams) : merge_to_file(options, streams);
}

}  // namespace

void set_up_uml_moo(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<UmlMooOptions>();
  app.add_option("-b", options->backing, "The backing, if it is not where the COW says")
      ->type_name("BACKING");
  app.add_option("COW", options->cow, "The COW file")->required();
  app.add_option("OUTPUT", options->output, "The image to make");
  app.add_flag("-d", options->in_place, "Merge into the backing itself, and make the COW empty");
  app.add_flag("--force", options->force, "Replace OUTPUT if it exists");
  app.callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return merge(*options, streams); };
  });
}

}  // namespace cowfs::cli
