#include "cli/consent.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "cowcore/errors.hpp"

namespace cowfs::cli {
namespace {

bool is_yes(const std::string& answer) {
  return answer == "y" || answer == "Y" || answer == "yes" || answer == "Yes" || answer == "YES";
}

}  // namespace

void ask_or_require_yes(const Streams& streams, bool yes, const std::string& file,
                        const std::string& consequence) {
  const bool can_ask = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1;
  if (!yes && !can_ask) {
    throw UsageError(fmt::format("{}: {}; give --yes if that is meant", file, consequence));
  }
  streams.err << fmt::format("cowfs: {}: {}\n", file, consequence) << std::flush;
  if (yes) return;
  streams.err << "Go on? [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  if (!is_yes(answer)) throw core::Error(file, "nothing has been changed");
}

}  // namespace cowfs::cli
