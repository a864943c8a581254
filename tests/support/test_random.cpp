#include "tests/support/test_random.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace cowfs::tests {

std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("COWFS_TEST_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
  }();
  return seed;
}

std::string seed_hint() { return "COWFS_TEST_SEED=" + std::to_string(test_seed()); }

std::vector<std::byte> TestRandom::bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t at = 0; at < count; at += sizeof(std::uint64_t)) {
    const auto word = engine_();
    std::memcpy(&bytes[at], &word, std::min(sizeof word, count - at));
  }
  return bytes;
}

}  // namespace cowfs::tests
