#include <CLI/CLI.hpp>
#include <memory>

#include "cli/command.hpp"
#include "cowcore/create_cow.hpp"

namespace cowfs::cli {
namespace {

struct CreateOptions {
  std::string cow;
  std::string backing;
  bool force = false;
};

int create(const CreateOptions& options) {
  core::create_cow(options.cow, options.backing,
                   options.force ? core::IfExists::replace : core::IfExists::refuse);
  return exit_done;
}

}  // namespace

void set_up_create(CLI::App& command, Action& chosen) {
  const auto options = std::make_shared<CreateOptions>();
  command.add_option("COW", options->cow, "The COW file to make")->required();
  command.add_option("BACKING", options->backing, "The backing: a file or a block device")
      ->required();
  command.add_flag("--force,-f", options->force, "Make an existing COW empty: its content is lost");
  command.callback([&chosen, options] { chosen = [options] { return create(*options); }; });
}

void add_create_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  set_up_create(*app.add_subcommand("create", "Make an empty COW for a backing"), chosen);
}

}  // namespace cowfs::cli
