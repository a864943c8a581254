// Random numbers for tests, that can be had again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace cowfs::tests {

/// The seed of this run: COWFS_TEST_SEED from the environment, else another one each time.
[[nodiscard]] std::uint64_t test_seed();
/// "COWFS_TEST_SEED=123", for SCOPED_TRACE: how to see the same failure again.
[[nodiscard]] std::string seed_hint();

/// Thread safety: one thread at a time.
class TestRandom {
 public:
  /// `stream` tells apart the sequences of one test, such as those of its threads.
  explicit TestRandom(std::uint64_t stream = 0) : engine_(test_seed() + stream * 7919) {}

  /// Evenly from first to last, both included.
  std::uint64_t between(std::uint64_t first, std::uint64_t last) {
    return std::uniform_int_distribution<std::uint64_t>(first, last)(engine_);
  }
  bool one_in(std::uint64_t n) { return between(1, n) == 1; }
  std::vector<std::byte> bytes(std::size_t count);

 private:
  std::mt19937_64 engine_;
};

}  // namespace cowfs::tests
