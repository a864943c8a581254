// The map of sectors with several threads at once.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "cowcore/sector_map.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

constexpr SectorCount chunk_sectors = 32768;

class SectorMapConcurrency : public testing::Test {
 protected:
  SectorMapConcurrency() {
    storage_ = file_->open();
    tests::make_empty_cow(*storage_, header_);
  }

  [[nodiscard]] bool on_disk(SectorNumber sector) const {
    return tests::bit_on_disk(*storage_, layout_, sector);
  }

  std::shared_ptr<tests::MemoryFile> file_ = tests::MemoryFile::make("cow");
  CowHeader header_ = tests::make_header({.backing_size = 512 * 4 * chunk_sectors});
  CowLayout layout_ = compute_layout(header_, "cow");
  std::unique_ptr<Storage> storage_;
};

void mark(SectorMap& map, SectorNumber first, SectorCount count) {
  map.prepare(first, count);
  map.set(first, count);
}

bool takes(const PendingWords& words, SectorNumber sector) {
  for (const auto& stretch : words.stretches) {
    const auto word = sector / 64;
    if (word >= stretch.first_word && word < stretch.first_word + stretch.words) {
      return (words.values[stretch.at + word - stretch.first_word] >> (sector % 64) & 1) != 0;
    }
  }
  return false;
}

TEST_F(SectorMapConcurrency, TheBitmapInTheFileEndsEqualToWhatWasSet) {
  SCOPED_TRACE(tests::seed_hint());
  static constexpr unsigned setters = 3;
  const auto sectors = layout_.sectors;
  tests::set_bit_on_disk(*storage_, layout_, 12345);
  SectorMap map(*storage_, layout_);
  std::vector<std::vector<bool>> set(setters, std::vector<bool>(sectors));
  std::atomic<unsigned> running = setters;
  std::atomic<bool> wrong = false;

  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < setters; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(id + 1);
      for (int i = 0; i < 3000; ++i) {
        const auto first = random.between(0, sectors - 1);
        const auto count =
            std::min<SectorCount>(sectors - first, random.one_in(50) ? 500 : random.between(1, 3));
        mark(map, first, count);
        std::fill_n(set[id].begin() + static_cast<std::ptrdiff_t>(first), count, true);
        const auto run = map.run(first, count);
        if (run.length != count || !run.in_cow) wrong = true;
      }
      --running;
    });
  }
  PendingWords words;
  const auto flush = [&] {
    map.take_pending(words);
    map.write_pending(words);
    map.settle(words);
  };
  while (running > 0) flush();
  threads.clear();
  flush();

  EXPECT_FALSE(wrong) << "a sector that was set did not look like it";
  SectorCount total = 0;
  for (SectorNumber i = 0; i < sectors; ++i) {
    const bool expected = set[0][i] || set[1][i] || set[2][i] || i == 12345;
    total += expected ? 1 : 0;
    ASSERT_EQ(on_disk(i), expected) << "sector " << i;
  }
  EXPECT_EQ(map.count(), total);
}

// A thread that writes a sector which another one has just made visible has nothing to set. If it
// flushes then, the flush has to find the bit: its data counts on it.
TEST_F(SectorMapConcurrency, WhatLooksSetIsFoundByAFlushThatBeginsThen) {
  for (int round = 0; round < 1000; ++round) {
    SectorMap map(*storage_, layout_);
    map.prepare(0, chunk_sectors);
    std::barrier start(2);
    std::jthread setter([&] {
      start.arrive_and_wait();
      map.set(0, chunk_sectors);
    });
    start.arrive_and_wait();
    while (!map.in_cow(0)) {
    }
    map.set(0, 1);
    PendingWords words;
    map.take_pending(words);
    ASSERT_TRUE(takes(words, 0)) << "round " << round;
  }
}

// A setter that is put to sleep half way must not lead to a word being written without a bit that
// an earlier flush has put on disk already.
TEST_F(SectorMapConcurrency, ABitOnDiskStaysThereHoweverFlushesAndSettersMeet) {
  SCOPED_TRACE(tests::seed_hint());
  static constexpr unsigned setters = 4;
  static constexpr SectorCount words_used = 8;
  for (int round = 0; round < 30; ++round) {
    const auto file = tests::MemoryFile::make("cow");
    const auto storage = file->open();
    tests::make_empty_cow(*storage, header_);
    SectorMap map(*storage, layout_);
    std::atomic<unsigned> running = setters;
    std::vector<std::jthread> threads;
    for (unsigned id = 0; id < setters; ++id) {
      threads.emplace_back([&, id] {
        // All in the same few words, each its own bits.
        for (SectorNumber bit = id; bit < 64; bit += setters) {
          for (SectorNumber word = 0; word < words_used; ++word) mark(map, word * 64 + bit, 1);
          std::this_thread::yield();
        }
        --running;
      });
    }
    PendingWords words;
    std::vector<std::uint64_t> before(words_used);
    const auto flush = [&] {
      map.take_pending(words);
      map.write_pending(words);
      map.settle(words);
      std::vector<std::uint64_t> now(words_used);
      storage->read(layout_.bitmap_offset, std::as_writable_bytes(std::span(now)));
      for (std::size_t i = 0; i < words_used; ++i) {
        ASSERT_EQ(before[i] & ~now[i], 0U) << "a flush took bits away from word " << i;
      }
      before = now;
    };
    while (running > 0) ASSERT_NO_FATAL_FAILURE(flush());
    threads.clear();
    ASSERT_NO_FATAL_FAILURE(flush());
    for (const auto word : before) ASSERT_EQ(word, ~std::uint64_t{0}) << "round " << round;
  }
}

TEST_F(SectorMapConcurrency, ManyThreadsLoadTheSameChunks) {
  for (SectorNumber i = 0; i < layout_.sectors; i += 1000) {
    tests::set_bit_on_disk(*storage_, layout_, i);
  }
  const SectorMap map(*storage_, layout_);
  std::barrier start(4);
  std::atomic<unsigned> wrong = 0;
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < 4; ++id) {
    threads.emplace_back([&, id] {
      start.arrive_and_wait();
      if (id % 2 == 0 && map.count() != (layout_.sectors + 999) / 1000) ++wrong;
      for (SectorNumber i = 0; i < layout_.sectors; i += 500) {
        if (map.in_cow(i) != (i % 1000 == 0)) ++wrong;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace cowfs::core
