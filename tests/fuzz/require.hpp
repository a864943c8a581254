// What a harness says when a promise is broken.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace cowfs::tests {

/// Ends the process, as libFuzzer wants it for a finding, unless `promise` holds.
inline void require(bool promise, const char* what) {
  if (promise) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace cowfs::tests
