#include "cli/option_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "cli/command.hpp"

namespace cowfs::cli {

void for_each_option(const std::vector<std::string>& lists,
                     const std::function<void(const ListedOption&)>& apply) {
  for (const auto& list : lists) {
    std::string_view rest = list;
    while (!rest.empty()) {
      const auto comma = std::min(rest.find(','), rest.size());
      const auto text = rest.substr(0, comma);
      const auto equals = text.find('=');
      ListedOption option{text, text.substr(0, equals), std::nullopt};
      if (equals != std::string_view::npos) option.value = text.substr(equals + 1);
      if (!text.empty()) apply(option);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
}

bool is_generic_option(std::string_view option) {
  static constexpr std::array names{
      "rw",    "defaults", "auto",    "noauto",   "dev",      "nodev",      "suid",   "nosuid",
      "exec",  "noexec",   "user",    "nouser",   "users",    "owner",      "group",  "nofail",
      "async", "atime",    "noatime", "relatime", "diratime", "nodiratime", "_netdev"};
  return option.substr(0, 2) == "x-" || option.substr(0, 8) == "comment=" ||
         std::ranges::find(names, option) != names.end();
}

void refuse_option(std::string_view option, std::string_view problem, std::string_view command) {
  throw UsageError(fmt::format("-o {}: {}; see `cowfs {} --help`", option, problem, command));
}

unsigned parse_option_number(const ListedOption& option, unsigned least, unsigned most,
                             std::string_view command) {
  unsigned value = 0;
  const auto text = option.value.value_or("");
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    refuse_option(option.text, fmt::format("takes a number from {} to {}", least, most), command);
  }
  return value;
}

}  // namespace cowfs::cli
