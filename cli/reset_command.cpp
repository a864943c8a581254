#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cowcore/reset_cow.hpp"

namespace cowfs::cli {
namespace {

struct ResetArguments {
  std::string image;  ///< COW[,BACKING]
};

int reset(const ResetArguments& arguments, const Streams& streams) {
  const auto [cow, backing] = split_image(arguments.image);
  for (const auto& notice : core::reset_cow(cow, backing)) {
    fmt::print(streams.err, "cowfs: {}\n", notice);
  }
  return exit_done;
}

}  // namespace

void add_reset_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto arguments = std::make_shared<ResetArguments>();
  auto* command = app.add_subcommand("reset", "Make a COW empty again: all changes are lost");
  command->add_option("COW", arguments->image, "The COW file; COW,BACKING to name its backing")
      ->required();
  command->callback([&chosen, &streams, arguments] {
    chosen = [&streams, arguments] { return reset(*arguments, streams); };
  });
}

}  // namespace cowfs::cli
