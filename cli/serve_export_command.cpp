// The worker of an export: started by `cowfs export`, not by people.

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/command.hpp"
#include "cli/export_options.hpp"
#include "hostfs/worker.hpp"

namespace cowfs::cli {
namespace {

struct ServeExportArguments {
  std::string directory;
  std::string sandbox;
  std::string hidden;
  std::vector<std::string> options;
  std::int32_t daemon = 0;
};

int serve_export(const ServeExportArguments& arguments) {
  hostfs::WorkerOptions worker;
  worker.options = parse_export_options(arguments.options, GenericOptions::ignore);
  worker.options.sandbox = parse_sandbox(arguments.sandbox);
  worker.directory = arguments.directory;
  worker.hidden = arguments.hidden;
  worker.daemon = arguments.daemon;
  return hostfs::run_worker(worker);
}

}  // namespace

void add_serve_export_command(CLI::App& app, const Streams& /*streams*/, Action& chosen) {
  const auto arguments = std::make_shared<ServeExportArguments>();
  auto* command = app.add_subcommand("serve-export", "The worker of an export")->group("");
  command->add_option("DIR", arguments->directory)->required();
  command->add_option("-o", arguments->options)->allow_extra_args(false);
  command->add_option("--sandbox", arguments->sandbox)->required();
  command->add_option("--hidden", arguments->hidden);
  command->add_option("--daemon", arguments->daemon);
  command->callback(
      [&chosen, arguments] { chosen = [arguments] { return serve_export(*arguments); }; });
}

}  // namespace cowfs::cli
