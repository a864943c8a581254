// What the command line of the power-cut tests says.
#pragma once

#include <cstdint>

namespace cowfs::tests {

struct CrashOptions {
  /// How many distinct states to check at least.
  std::uint64_t states = 120'000;
};

/// `--states N` from the command line.
[[nodiscard]] const CrashOptions& crash_options();

}  // namespace cowfs::tests
