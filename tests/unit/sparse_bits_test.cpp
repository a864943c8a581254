// Bits that are found without looking at the rest.

#include "cowcore/sparse_bits.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

constexpr std::size_t page_bits = 32768;

std::vector<std::size_t> taken_from(SparseBits& bits) {
  std::vector<std::size_t> taken;
  bits.take([&](std::size_t i) { taken.push_back(i); });
  return taken;
}

TEST(SparseBits, FindsTheNextOneAsASetDoes) {
  SCOPED_TRACE(tests::seed_hint());
  tests::TestRandom random;
  for (const std::size_t size : {std::size_t{1}, std::size_t{64}, std::size_t{65}, page_bits - 1,
                                 page_bits, page_bits + 1, 10 * page_bits + 77}) {
    SparseBits bits(size);
    std::set<std::size_t> model;
    EXPECT_EQ(bits.find(0, size), size);
    for (int round = 0; round < 200; ++round) {
      const auto added = random.between(0, size - 1);
      bits.set(added);
      model.insert(added);
      EXPECT_TRUE(bits.test(added));
      const auto from = random.between(0, size);
      const auto end = random.between(from, size);
      const auto next = model.lower_bound(from);
      const auto expected = next == model.end() ? end : std::min(end, *next);
      ASSERT_EQ(bits.find(from, end), expected) << from << " to " << end << " of " << size;
    }
    EXPECT_EQ(taken_from(bits), std::vector(model.begin(), model.end()));
    EXPECT_EQ(bits.find(0, size), size);
    EXPECT_TRUE(taken_from(bits).empty());
  }
}

TEST(SparseBits, AHugeRangeIsSearchedAtOnce) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "takes more address space than the sanitizer leaves";
#endif
  constexpr auto size = std::size_t{1} << 38;
  SparseBits bits(size);
  bits.set(size - 1);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(bits.find(5, size), size - 1);
  EXPECT_EQ(taken_from(bits), std::vector{size - 1});
}

TEST(SparseBits, ABitThatIsSetWhileOthersAreTakenIsTakenInTheEnd) {
  constexpr std::size_t count = 20000;
  constexpr std::size_t step = 77;
  SparseBits bits(count * step);
  std::atomic<bool> done = false;
  std::vector<unsigned> times(count);
  {
    const std::jthread setter([&] {
      for (std::size_t i = 0; i < count; ++i) bits.set(i * step);
      done = true;
    });
    const auto take = [&] { bits.take([&](std::size_t i) { ++times.at(i / step); }); };
    while (!done) take();
    take();
  }
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(times[i], 1U) << i;
}

TEST(SparseBits, WhatTestShowsFindFinds) {
  for (int round = 0; round < 500; ++round) {
    SparseBits bits(3 * page_bits);
    const std::size_t i = 2 * page_bits + 5;
    const std::jthread setter([&] { bits.set(i); });
    while (!bits.test(i)) {
    }
    ASSERT_EQ(bits.find(0, 3 * page_bits), i) << "round " << round;
  }
}

}  // namespace
}  // namespace cowfs::core
