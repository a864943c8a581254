#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/consent.hpp"
#include "cowcore/backing.hpp"
#include "cowcore/human_units.hpp"
#include "cowcore/relocate_cow.hpp"

namespace cowfs::cli {
namespace {

struct RelocateOptions {
  std::string cow;
  std::string backing;
  bool restore_mtime = false;
  bool yes = false;
};

core::ConfirmRestore ask_before_restore(const RelocateOptions& options, const Streams& streams) {
  if (!options.restore_mtime) return {};
  return [&](const core::MtimeDifference& difference) {
    ask_or_require_yes(
        streams, options.yes, difference.backing,
        fmt::format("its time will be set from {} back to {}; that its content is still the same "
                    "can't be verified, and if it is not, every COW of it is corrupted",
                    core::human_time(difference.present), core::human_time(difference.recorded)));
  };
}

int relocate(const RelocateOptions& options, const Streams& streams) {
  const auto result =
      core::relocate_cow(options.cow, options.backing, ask_before_restore(options, streams));
  for (const auto& notice : result.notices) fmt::print(streams.err, "cowfs: {}\n", notice);
  if (result.mtime_restored) fmt::print(streams.out, "{}: time set back\n", options.backing);
  if (result.from == result.to) {
    fmt::print(streams.out, "{}: names {} already\n", options.cow, result.to);
  } else {
    fmt::print(streams.out, "{}: relocated from {} to {}\n", options.cow,
               result.from.empty() ? "no backing" : result.from, result.to);
  }
  return exit_done;
}

}  // namespace

void add_relocate_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<RelocateOptions>();
  auto* command = app.add_subcommand("relocate", "Point a COW at its moved backing");
  command->add_option("COW", options->cow, "The COW file")->required();
  command->add_option("BACKING", options->backing, "Where its backing is now")->required();
  auto* restore = command->add_flag("--restore-mtime", options->restore_mtime,
                                    "Set the backing's time back to the one that the COW records");
  command->add_flag("--yes", options->yes, "Do so without asking")->needs(restore);
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return relocate(*options, streams); };
  });
}

}  // namespace cowfs::cli
