#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/convert_cow.hpp"

namespace cowfs::cli {
namespace {

struct ConvertArguments {
  std::string source;  ///< COW[,BACKING]; with --backing, a plain image
  std::string output;
  std::string backing;  ///< of a plain image
  bool force = false;
  bool quiet = false;
};

core::ConvertResult perform_convert(const ConvertArguments& arguments, core::Progress progress) {
  core::ConvertOptions options;
  options.if_exists = arguments.force ? core::IfExists::replace : core::IfExists::refuse;
  options.progress = std::move(progress);
  if (!arguments.backing.empty()) {
    return core::make_smallest_cow(arguments.source, arguments.backing, arguments.output, options);
  }
  const auto [cow, backing] = split_image(arguments.source);
  return core::convert_cow(cow, backing, arguments.output, options);
}

int convert(const ConvertArguments& arguments, const Streams& streams) {
  core::ConvertResult result;
  {
    ProgressLine line(streams.err, {.doing = "making",
                                    .file = arguments.output,
                                    .cancelled = "nothing has been written",
                                    .shown = progress_is_shown(arguments.quiet)});
    result = perform_convert(arguments, line.callback());
  }
  for (const auto& notice : result.notices) fmt::print(streams.err, "cowfs: {}\n", notice);
  return exit_done;
}

}  // namespace

void add_convert_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<ConvertArguments>();
  auto* command =
      app.add_subcommand("convert", "Make a V3 COW of a COW of any layout, or of a plain image");
  command
      ->add_option("SOURCE", arguments->source,
                   "A COW, or COW,BACKING; with --backing, a plain image")
      ->required();
  command->add_option("NEW", arguments->output, "The COW to make")->required();
  command->add_option("--backing", arguments->backing,
                      "SOURCE is a plain image: make the smallest COW of this backing");
  command->add_flag("--force", arguments->force, "Replace NEW if it exists");
  command->add_flag("--quiet", arguments->quiet, "Show no progress");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return convert(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
