#include "cli/mount_options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

#include "cli/command.hpp"

namespace cowfs::cli {
namespace {

constexpr std::uint64_t smallest_window = std::uint64_t{1} << 20;
constexpr unsigned most_threads = 256;
constexpr unsigned longest_seconds = 86400;

[[noreturn]] void refuse(std::string_view option, std::string_view problem) {
  throw UsageError(fmt::format("-o {}: {}; see `cowfs mount --help`", option, problem));
}

unsigned parse_number(std::string_view option, std::string_view text, unsigned least,
                      unsigned most) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    refuse(option, fmt::format("takes a number from {} to {}", least, most));
  }
  return value;
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

bool is_generic(std::string_view option) {
  static constexpr std::array names{
      "rw",    "defaults", "auto",    "noauto",   "dev",      "nodev",      "suid",   "nosuid",
      "exec",  "noexec",   "user",    "nouser",   "users",    "owner",      "group",  "nofail",
      "async", "atime",    "noatime", "relatime", "diratime", "nodiratime", "_netdev"};
  return option.substr(0, 2) == "x-" || option.substr(0, 8) == "comment=" ||
         std::ranges::find(names, option) != names.end();
}

void apply(std::string_view option, GenericOptions generic, ImageMountOptions& options) {
  const auto equals = option.find('=');
  const auto name = option.substr(0, equals);
  const auto value = equals == std::string_view::npos ? std::optional<std::string_view>()
                                                      : option.substr(equals + 1);
  if (option == "ro") {
    options.read_only = true;
  } else if (option == "rw") {
    options.read_only = false;
  } else if (option == "allow_other") {
    options.allow_other = true;
  } else if (name == "cache" && value) {
    options.cache = parse_cache(option, *value);
  } else if (name == "commit" && value) {
    options.commit = std::chrono::seconds(parse_number(option, *value, 0, longest_seconds));
  } else if (option == "pending=on" || option == "pending=off") {
    options.pending = option == "pending=on";
  } else if (option == "backing-change=stop") {
    options.backing_change = fuse::BackingChange::stop;
  } else if (option == "backing-change=warn") {
    options.backing_change = fuse::BackingChange::warn;
  } else if (name == "watchdog" && value) {
    options.watchdog = std::chrono::seconds(parse_number(option, *value, 0, longest_seconds));
  } else if (name == "threads" && value) {
    options.threads = parse_number(option, *value, 1, most_threads);
  } else if (generic == GenericOptions::refuse || !is_generic(option)) {
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
  for (const auto& list : lists) {
    std::string_view rest = list;
    while (!rest.empty()) {
      const auto comma = std::min(rest.find(','), rest.size());
      const auto option = rest.substr(0, comma);
      if (!option.empty()) apply(option, generic, options);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  return options;
}

}  // namespace cowfs::cli
