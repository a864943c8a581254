#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/backing.hpp"
#include "cowcore/compact_cow.hpp"
#include "cowcore/human_units.hpp"

namespace cowfs::cli {
namespace {

struct CompactArguments {
  std::string image;  ///< COW[,BACKING]
  bool json = false;
  bool quiet = false;
};

/// The keys are documented in cowfs-compact(1) and stay as they are.
nlohmann::ordered_json to_json(const std::string& cow, const core::CompactResult& result) {
  return {{"cow", cow},
          {"sectors_in_cow", result.kept},
          {"dropped_sectors", result.dropped},
          {"bytes_on_disk_before", result.allocated_before},
          {"bytes_on_disk", result.allocated_after}};
}

void print_text(std::ostream& out, const std::string& cow, const core::CompactResult& result) {
  const auto saved = result.allocated_before > result.allocated_after
                         ? result.allocated_before - result.allocated_after
                         : 0;
  fmt::print(out, "{}: saved {}; dropped {} sectors that equal the backing's, kept {}\n", cow,
             core::human_size(saved), result.dropped, result.kept);
}

int compact(const CompactArguments& arguments, const Streams& streams) {
  const auto [cow, backing] = split_image(arguments.image);
  core::CompactResult result;
  {
    ProgressLine line(streams.err, {.doing = "compacting",
                                    .file = cow.string(),
                                    .cancelled = "its content is as it was",
                                    .shown = progress_is_shown(arguments.quiet)});
    result = core::compact_cow(cow, backing, line.callback());
  }
  for (const auto& notice : result.notices) fmt::print(streams.err, "cowfs: {}\n", notice);
  if (arguments.json) {
    streams.out << to_json(cow.string(), result)
                       .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
                << "\n";
  } else if (!arguments.quiet) {
    print_text(streams.out, cow.string(), result);
  }
  return exit_done;
}

}  // namespace

void add_compact_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<CompactArguments>();
  auto* command = app.add_subcommand("compact", "Give back what a COW need not hold");
  command->add_option("COW", arguments->image, "The COW file; COW,BACKING to name its backing")
      ->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_flag("--quiet", arguments->quiet, "Show no progress, and no result");
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return compact(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
