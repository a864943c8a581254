#include "tests/support/test_random.hpp"

#include <cstdlib>

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
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 8 == 0) word = engine_();
    bytes[i] = static_cast<std::byte>(word >> (i % 8 * 8));
  }
  return bytes;
}

}  // namespace cowfs::tests
