// cowfs under the name of uml_moo.

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/merge.hpp"

namespace cowfs::cli {
namespace {

struct UmlMooOptions {
  std::string cow;
  std::string backing;
  std::string output;
  bool force = false;
};

int merge(const UmlMooOptions& options, const Streams& streams) {
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

}  // namespace

void set_up_uml_moo(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<UmlMooOptions>();
  app.add_option("-b", options->backing, "The backing, if it is not where the COW says")
      ->type_name("BACKING");
  app.add_option("COW", options->cow, "The COW file")->required();
  app.add_option("OUTPUT", options->output, "The image to make")->required();
  app.add_flag("--force", options->force, "Replace OUTPUT if it exists");
  app.callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return merge(*options, streams); };
  });
}

}  // namespace cowfs::cli
