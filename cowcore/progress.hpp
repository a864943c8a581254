// How an operation on a whole image tells how far it is, and how it is stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cowcore/errors.hpp"

namespace cowfs::core {

/// The user has asked an operation to stop.
class Cancelled : public Error {
 public:
  /// "FILE: interrupted; `state`": what the user finds now.
  explicit Cancelled(const std::string& file, const std::string& state = {})
      : Error(file, "interrupted", state) {}
};

/// Bytes that are done and bytes that there are to do. The second may grow while an operation finds
/// out what there is.
struct ProgressReport {
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};

/// Called by an operation in its own thread, at least every few megabytes and at each point where
/// it can stop. Throws Cancelled to stop it: the operation then undoes what it has begun, or leaves
/// what can be completed, as its own comment says, and lets the exception pass. May be empty.
using Progress = std::function<void(const ProgressReport&)>;

/// Calls `progress` if there is one.
inline void report(const Progress& progress, std::uint64_t done, std::uint64_t total) {
  if (progress) progress({done, total});
}

}  // namespace cowfs::core
