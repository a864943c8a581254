// Taking lists of `-o` options apart.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cowfs::cli {

/// An option of a list, e.g. "ro" or "cache=none".
struct ListedOption {
  std::string_view text;                  ///< all of it
  std::string_view name;                  ///< what is before the '='
  std::optional<std::string_view> value;  ///< what is after it, if there is one
};

/// Calls `apply` for each option of comma-separated lists, in their order. Empty ones are skipped.
void for_each_option(const std::vector<std::string>& lists,
                     const std::function<void(const ListedOption&)>& apply);

/// Whether it concerns mount(8) and fstab rather than a file system.
[[nodiscard]] bool is_generic_option(std::string_view option);

/// Throws UsageError, naming the option and the command whose --help lists what there is.
[[noreturn]] void refuse_option(std::string_view option, std::string_view problem,
                                std::string_view command);

/// A decimal number from `least` to `most`; anything else is refused.
[[nodiscard]] unsigned parse_option_number(const ListedOption& option, unsigned least,
                                           unsigned most, std::string_view command);

}  // namespace cowfs::cli
