#include "cli/mount_options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <string_view>

#include "cli/command.hpp"
#include "cli/option_list.hpp"

namespace cowfs::cli {
namespace {

constexpr std::uint64_t smallest_window = std::uint64_t{1} << 20;
constexpr unsigned most_threads = 256;
constexpr unsigned longest_seconds = 86400;

constexpr std::string_view this_command = "mount";

[[noreturn]] void refuse(std::string_view option, std::string_view problem) {
  refuse_option(option, problem, this_command);
}

fuse::CachePolicy parse_cache(std::string_view option, std::string_view value) {
  using Mode = fuse::CachePolicy::Mode;
  fuse::CachePolicy policy;
  if (value == "none") {
    policy.mode = Mode::none;
  } else if (value == "kernel") {
    policy.mode = Mode::kernel;
  } else if (value.substr(0, 7) == "window:") {
    try {
      policy.window = parse_size(std::string(value.substr(7)));
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("-o {}: {}", option, error.what()));
    }
    if (policy.window < smallest_window) refuse(option, "a window has at least 1M");
  } else if (value != "window") {
    refuse(option, "takes window, window:SIZE, none or kernel");
  }
  return policy;
}

void apply(const ListedOption& listed, GenericOptions generic, ImageMountOptions& options) {
  const auto& [option, name, value] = listed;
  if (option == "ro") {
    options.read_only = true;
  } else if (option == "rw") {
    options.read_only = false;
  } else if (option == "allow_other") {
    options.allow_other = true;
  } else if (name == "cache" && value) {
    options.cache = parse_cache(option, *value);
  } else if (name == "commit" && value) {
    options.commit =
        std::chrono::seconds(parse_option_number(listed, 0, longest_seconds, this_command));
  } else if (option == "pending=on" || option == "pending=off") {
    options.pending = option == "pending=on";
  } else if (option == "backing-change=stop") {
    options.backing_change = fuse::BackingChange::stop;
  } else if (option == "backing-change=warn") {
    options.backing_change = fuse::BackingChange::warn;
  } else if (name == "watchdog" && value) {
    options.watchdog =
        std::chrono::seconds(parse_option_number(listed, 0, longest_seconds, this_command));
  } else if (name == "threads" && value) {
    options.threads = parse_option_number(listed, 1, most_threads, this_command);
  } else if (generic == GenericOptions::refuse || !is_generic_option(option)) {
    refuse(option, "unknown option");
  }
}

}  // namespace

std::uint64_t parse_size(const std::string& text) {
  std::uint64_t bytes = 0;
  const auto* end = text.data() + text.size();
  const auto [unit, error] = std::from_chars(text.data(), end, bytes);
  // CLI11 left to itself reads 010 as 8 and 0x10 as 16.
  auto number = fmt::format("{}{}", bytes, std::string_view(unit, end));
  try {
    // K, M, G are powers of 1024 here, as in all tools for disk images.
    const auto problem = CLI::AsSizeValue(false)(number);
    if (error == std::errc{} && problem.empty() && CLI::detail::lexical_cast(number, bytes)) {
      return bytes;
    }
  } catch (const CLI::ValidationError&) {
    // A unit that it does not know.
  }
  throw UsageError(fmt::format("'{}' is no size; write it as 4096, 64K, 16M or 1G", text));
}

ImageMountOptions parse_mount_options(const std::vector<std::string>& lists,
                                      GenericOptions generic) {
  ImageMountOptions options;
  for_each_option(lists, [&](const ListedOption& option) { apply(option, generic, options); });
  return options;
}

}  // namespace cowfs::cli
