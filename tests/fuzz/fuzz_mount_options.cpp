// The lists of `cowfs mount -o`: parsed, or refused with UsageError, and nothing else.
//
// The input: one byte whether generic options are ignored, then the lists, a line each. What
// follows a NUL is left out: no argument of a process has one.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.hpp"
#include "cli/mount_options.hpp"
#include "tests/fuzz/require.hpp"

namespace cowfs::tests {
namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const auto end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

/// Reads the sizes that the manual page promises: a decimal number, and at most one of K, M, G.
/// Nothing for any other text, which parse_size may take or refuse.
std::optional<std::uint64_t> plain_size(std::string_view text) {
  unsigned shift = 0;
  if (!text.empty()) {
    const auto unit = std::string_view("KMG").find(text.back());
    if (unit != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      text.remove_suffix(1);
    }
  }
  if (text.empty() || text.size() > 9) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value << shift;
}

void check_size(const std::string& text) {
  std::optional<std::uint64_t> parsed;
  try {
    parsed = cli::parse_size(text);
  } catch (const cli::UsageError& error) {
    require(std::string(error.what()).size() > text.size(), "an error says what is wrong");
  }
  const auto expected = plain_size(text);
  require(!expected || parsed == expected, "a plain size is read as it is written");
}

void check_options(const cli::ImageMountOptions& options) {
  require(options.cache.mode != fuse::CachePolicy::Mode::window ||
              options.cache.window >= (std::uint64_t{1} << 20),
          "a window has at least 1 MiB");
  require(options.threads <= 256, "threads are bounded");
  require(options.commit.count() >= 0 && options.commit.count() <= 86400, "commit is bounded");
  require(options.watchdog.count() >= 0 && options.watchdog.count() <= 86400,
          "watchdog is bounded");
}

std::optional<cli::ImageMountOptions> parse(const std::vector<std::string>& lists,
                                            cli::GenericOptions generic) {
  try {
    return cli::parse_mount_options(lists, generic);
  } catch (const cli::UsageError&) {
    return std::nullopt;
  }
}

void run(std::string_view text) {
  if (text.empty()) return;
  const auto generic =
      text.front() % 2 == 0 ? cli::GenericOptions::refuse : cli::GenericOptions::ignore;
  text = text.substr(1, text.find('\0', 1) - 1);
  const auto lists = split(text, '\n');
  for (const auto& list : lists) check_size(list);

  const auto options = parse(lists, generic);
  if (options) check_options(*options);
  if (generic == cli::GenericOptions::refuse && options) {
    require(parse(lists, cli::GenericOptions::ignore).has_value(), "ignoring more refuses no more");
  }
}

}  // namespace
}  // namespace cowfs::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  cowfs::tests::run({reinterpret_cast<const char*>(data), size});
  return 0;
}
