#include "cli/command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/filesystem/path.hpp>
#include <ostream>
#include <string_view>

#include "cli/version.hpp"
#include "cowcore/errors.hpp"

namespace cowfs::cli {
namespace {

constexpr std::string_view mount_helper = "mount.fuse.cowfs";

/// mount(8) calls its helper as: SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE].
std::vector<std::string> from_mount_helper(const std::vector<std::string>& arguments) {
  std::vector<std::string> result{"mount", "--from-mount"};
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const auto& argument = arguments[i];
    if (argument == "-t") {
      ++i;
    } else if (argument != "-s" && argument != "-f" && argument != "-n" && argument != "-v") {
      result.push_back(argument);
    }
  }
  return result;
}

std::string program_name(const std::vector<std::string>& arguments) {
  return arguments.empty() ? "cowfs"
                           : boost::filesystem::path(arguments.front()).filename().string();
}

std::vector<std::string> words_for_parser(const std::vector<std::string>& arguments) {
  if (program_name(arguments) == mount_helper) return from_mount_helper(arguments);
  return {arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end()};
}

}  // namespace

int perform(const Action& action, const std::function<void(const std::string&)>& report) {
  const auto fail = [&report](const std::exception& error, ExitStatus status) {
    report(error.what());
    return status;
  };
  try {
    return action();
  } catch (const UsageError& error) {
    return fail(error, exit_usage);
  } catch (const core::BackingMismatch& error) {
    return fail(error, exit_backing_mismatch);
  } catch (const core::DamagedCow& error) {
    return fail(error, exit_damaged_cow);
  } catch (const core::Busy& error) {
    return fail(error, exit_in_use);
  } catch (const std::exception& error) {
    return fail(error, exit_failed);
  }
}

namespace {

/// Parses the words and performs what they choose.
int parse_and_perform(CLI::App& app, std::vector<std::string> words, const Streams& streams,
                      const Action& chosen) {
  const auto name = app.get_name();
  try {
    std::reverse(words.begin(), words.end());  // CLI11 takes its vector from the back
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    const auto called = app.get_subcommands();
    streams.out << (called.empty() ? app.help() : called.front()->help(name));
    return exit_done;
  } catch (const CLI::CallForVersion&) {
    streams.out << app.version() << "\n";
    return exit_done;
  } catch (const CLI::ParseError& error) {
    streams.err << name << ": " << error.what() << "; see `" << name << " --help`\n";
    return exit_usage;
  }
  return perform(chosen,
                 [&](const std::string& line) { streams.err << name << ": " << line << "\n"; });
}

/// cowfs under the name of an older program, which has no subcommands.
int run_as(const char* name, const std::string& description,
           const std::function<void(CLI::App&, Action&)>& set_up,
           const std::vector<std::string>& arguments, const Streams& streams) {
  CLI::App app(description, name);
  app.set_version_flag("--version,-V", fmt::format("{} of cowfs {}", name, version));
  Action chosen;
  set_up(app, chosen);
  return parse_and_perform(app, {arguments.begin() + 1, arguments.end()}, streams, chosen);
}

}  // namespace

int run(const std::vector<std::string>& arguments, const Streams& streams) {
  const auto called_as = program_name(arguments);
  if (called_as == "uml_mkcow") {
    return run_as("uml_mkcow", "Makes an empty COW for a backing, as `cowfs create` does",
                  set_up_create, arguments, streams);
  }
  if (called_as == "uml_moo") {
    return run_as(
        "uml_moo", "Merges a COW and its backing, as `cowfs merge` does",
        [&](CLI::App& app, Action& chosen) { set_up_uml_moo(app, streams, chosen); }, arguments,
        streams);
  }
  CLI::App app("Mounts a backing image and a User-Mode Linux COW file as one read-write image",
               "cowfs");
  app.set_version_flag("--version", std::string("cowfs ") + version);
  app.require_subcommand(1);
  app.footer(
      "Exit status: 0 done, 1 failed, 2 usage, 3 the backing does not match, 4 damaged COW, "
      "5 in use.\nSee cowfs(1) for more.");
  Action chosen;
  add_create_command(app, streams, chosen);
  add_mount_command(app, streams, chosen);
  add_umount_command(app, streams, chosen);
  add_info_command(app, streams, chosen);
  add_merge_command(app, streams, chosen);
  add_compact_command(app, streams, chosen);
  add_convert_command(app, streams, chosen);
  add_reset_command(app, streams, chosen);
  add_restart_command(app, streams, chosen);
  add_serve_command(app, streams, chosen);
  add_export_command(app, streams, chosen);
  add_serve_export_command(app, streams, chosen);
  add_check_command(app, streams, chosen);
  add_map_command(app, streams, chosen);
  add_compare_command(app, streams, chosen);
  add_relocate_command(app, streams, chosen);
  add_mkimage_command(app, streams, chosen);
  return parse_and_perform(app, words_for_parser(arguments), streams, chosen);
}

}  // namespace cowfs::cli
