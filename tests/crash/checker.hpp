// Opens what a power cut can leave, and holds it against the history.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>

#include "tests/crash/workload.hpp"

namespace cowfs::tests {

/// What was checked, over many workloads.
struct Tally {
  std::uint64_t workloads = 0;
  std::uint64_t operations = 0;  ///< of the logs
  std::uint64_t cuts = 0;
  std::uint64_t states = 0;
  std::unordered_set<std::uint64_t> distinct;  ///< hashes of states

  [[nodiscard]] std::string describe() const;
};

/// Goes through the states that a power cut at any moment of the workload, which has ended, can
/// leave; about `per_cut` of them at each. Returns what the first bad one breaks.
///
/// Each state is opened as any COW is: header, layout, merged image. All of its sectors are read,
/// or in a large image those that were ever touched and some others.
[[nodiscard]] std::optional<std::string> find_violation(Workload& workload, std::size_t per_cut,
                                                        Tally& tally);

}  // namespace cowfs::tests
