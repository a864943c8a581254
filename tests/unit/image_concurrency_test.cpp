// The merged image with several threads at once, and with a write at the worst moment of a read.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <boost/filesystem.hpp>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/interrupted_storage.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

using Bytes = std::vector<std::byte>;

/// Reads the first 16 KiB, of which some sectors are in the COW, while a write of sector 3 comes in
/// between: before or after each of the reads of the two files in turn.
class ReadMeetsWrite : public testing::TestWithParam<std::vector<SectorNumber>> {
 protected:
  /// What the reader got, or nothing if there was no such moment.
  std::optional<Bytes> read_at_moment(int moment, std::uint64_t offset, bool by_view) {
    tests::TestRandom random;
    const auto pair = tests::make_pair_in_memory({.backing_size = 65536}, random);
    // No holes: a zero is wrong anywhere.
    pair.backing->open()->write(0, Bytes(65536, std::byte{0x11}));
    const auto hook = std::make_shared<tests::Interruption>();
    CowImage image(std::make_unique<tests::InterruptedStorage>(pair.cow->open(), hook),
                   std::make_unique<tests::InterruptedStorage>(pair.backing->open(), hook),
                   pair.layout, false);
    for (const auto sector : GetParam()) {
      image.write(sector * sector_bytes, Bytes(512, std::byte{0x22}));
    }
    (void)image.sectors().in_cow(0);  // the bitmap is in memory: only data is read from here on
    int passed = 0;
    *hook = [&](tests::Operation operation, tests::Moment) {
      if (operation != tests::Operation::read || passed++ != moment) return;
      image.write(3 * sector_bytes, Bytes(512, std::byte{0x33}));
    };
    const std::size_t length = 16384 - offset;
    auto found =
        by_view ? viewer_.read(image, offset, length) : tests::read_image(image, offset, length);
    if (passed <= moment) return std::nullopt;
    return found;
  }

  [[nodiscard]] bool was_in_cow(SectorNumber sector) const {
    return std::ranges::find(GetParam(), sector) != GetParam().end();
  }

  void check(const Bytes& found, std::uint64_t offset) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto sector = (offset + i) / sector_bytes;
      const auto before = was_in_cow(sector) ? std::byte{0x22} : std::byte{0x11};
      const bool right = found[i] == before || (sector == 3 && found[i] == std::byte{0x33});
      ASSERT_TRUE(right) << "byte " << offset + i << " (sector " << sector << ") is "
                         << std::to_integer<int>(found[i]);
    }
  }

  tests::ViewReader viewer_;
};

TEST_P(ReadMeetsWrite, EachSectorIsAsBeforeOrAsAfter) {
  for (const bool by_view : {false, true}) {
    for (const std::uint64_t offset : {0U, 512U, 700U, 1536U, 1600U}) {
      int moment = 0;
      for (;; ++moment) {
        SCOPED_TRACE("offset " + std::to_string(offset) + ", moment " + std::to_string(moment));
        const auto found = read_at_moment(moment, offset, by_view);
        if (!found) break;
        ASSERT_NO_FATAL_FAILURE(check(*found, offset));
      }
      EXPECT_GT(moment, 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(SectorsInCow, ReadMeetsWrite,
                         testing::Values(std::vector<SectorNumber>{}, std::vector<SectorNumber>{8},
                                         std::vector<SectorNumber>{2, 4},
                                         std::vector<SectorNumber>{0, 1, 2, 4, 5, 6, 7, 9},
                                         std::vector<SectorNumber>{3, 8},
                                         std::vector<SectorNumber>{0, 9, 10, 11, 12, 13, 14, 15}));

enum class Place { memory, files };

/// A pair in one of the two places, opened as often as wanted.
class ImageThreads : public testing::TestWithParam<Place> {
 protected:
  void make(const tests::Shape& shape) {
    if (GetParam() == Place::memory) {
      in_memory_ = tests::make_pair_in_memory(shape, random_);
      content_ = in_memory_.content;
    } else {
      const auto path = directory_ / std::to_string(made_++);
      boost::filesystem::create_directory(path);
      on_disk_ = tests::make_pair_on_disk(path, shape, random_);
      content_ = on_disk_.content;
    }
  }

  std::unique_ptr<CowImage> open() {
    if (GetParam() == Place::memory) return in_memory_.open();
    return std::make_unique<CowImage>(
        PosixStorage::open(on_disk_.cow, Access::read_write, FileKinds::regular),
        PosixStorage::open(on_disk_.backing, Access::read_only, FileKinds::regular),
        on_disk_.layout, false);
  }

  testing::ScopedTrace trace_{__FILE__, __LINE__, tests::seed_hint()};
  tests::TestRandom random_;
  tests::TemporaryDirectory directory_;
  int made_ = 0;
  tests::PairInMemory in_memory_;
  tests::PairOnDisk on_disk_;
  Bytes content_;
};

// Each thread owns some bytes of every sector. Whoever fills up a sector from the backing must not
// undo what a neighbour has just written into it.
TEST_P(ImageThreads, WritersOfDisjointPartsOfSectorsLoseNoUpdate) {
  static constexpr unsigned writers = 4;
  static constexpr std::uint64_t part = sector_bytes / writers;
  static constexpr SectorCount sectors = 512;
  for (int round = 0; round < 8; ++round) {
    make({.backing_size = sectors * sector_bytes});
    auto image = open();
    auto expected = content_;
    std::barrier start(writers);
    std::vector<std::jthread> threads;
    for (unsigned id = 0; id < writers; ++id) {
      threads.emplace_back([&, id] {
        tests::TestRandom random(id + 1);
        start.arrive_and_wait();
        // All walk the same way at the same time, so that they meet in each sector.
        for (SectorNumber sector = 0; sector < sectors; ++sector) {
          const auto at = sector * sector_bytes + id * part;
          const auto shift = random.between(0, 20);
          const auto length = random.between(1, part - shift);
          const auto bytes = random.bytes(length);
          image->write(at + shift, bytes);
          std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(at + shift));
          if (random.one_in(64)) image->flush();
        }
      });
    }
    threads.clear();
    ASSERT_EQ(tests::difference(tests::read_all(*image), expected), "the same");
    image->flush();
    image.reset();
    ASSERT_EQ(tests::difference(tests::read_all(*open()), expected), "the same") << "reopened";
  }
}

// Byte ranges that cross sectors and meet in the middle of them.
TEST_P(ImageThreads, WritersOfNeighbouringUnalignedRangesLoseNoUpdate) {
  static constexpr unsigned writers = 4;
  make({.backing_size = 4 << 20});
  auto image = open();
  auto expected = content_;
  std::vector<std::uint64_t> edges{0};
  while (edges.back() < image->size()) {
    edges.push_back(std::min(image->size(), edges.back() + random_.between(1, 3000)));
  }
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < writers; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(id + 1);
      for (std::size_t i = id; i + 1 < edges.size(); i += writers) {
        const auto bytes = random.bytes(edges[i + 1] - edges[i]);
        if (random.one_in(8)) {
          image->zero(edges[i], bytes.size());
          std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(edges[i]), bytes.size(),
                      std::byte{});
        } else {
          image->write(edges[i], bytes);
          std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(edges[i]));
        }
        if (random.one_in(100)) image->flush();
      }
    });
  }
  threads.clear();
  EXPECT_EQ(tests::difference(tests::read_all(*image), expected), "the same");
  image->flush();
  image.reset();
  EXPECT_EQ(tests::difference(tests::read_all(*open()), expected), "the same") << "reopened";
}

TEST_P(ImageThreads, OverlappingWritersLeaveOneOrTheOtherInEachSector) {
  static constexpr unsigned writers = 4;
  make({.backing_size = 256 << 10});
  auto image = open();
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < writers; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(id + 1);
      for (int i = 0; i < 300; ++i) {
        const auto first = random.between(0, 511);
        const auto count = random.between(1, std::min<SectorCount>(512 - first, 64));
        if (id == 0) {
          image->zero(first * sector_bytes, count * sector_bytes);
        } else {
          image->write(first * sector_bytes, Bytes(count * sector_bytes, std::byte(id)));
        }
        if (random.one_in(20)) image->flush();
      }
    });
  }
  threads.clear();
  const auto check = [&](const Bytes& found) {
    for (SectorNumber sector = 0; sector < 512; ++sector) {
      const auto begin = found.begin() + static_cast<std::ptrdiff_t>(sector * sector_bytes);
      const Bytes bytes(begin, begin + 512);
      const bool of_a_writer =
          bytes == Bytes(512, bytes[0]) && std::to_integer<unsigned>(bytes[0]) < writers;
      const auto old = content_.begin() + static_cast<std::ptrdiff_t>(sector * sector_bytes);
      ASSERT_TRUE(of_a_writer || bytes == Bytes(old, old + 512)) << "sector " << sector;
    }
  };
  const auto found = tests::read_all(*image);
  ASSERT_NO_FATAL_FAILURE(check(found));
  image->flush();
  image.reset();
  EXPECT_EQ(tests::difference(tests::read_all(*open()), found), "the same") << "reopened";
}

// Word by word, because the kernel copies no larger piece at once into and out of a file.
TEST_P(ImageThreads, ReadersSeeOnlyWhatWasThereOrWasWritten) {
  static constexpr std::uint64_t size = 512 << 10;
  static constexpr unsigned writers = 2;
  make({.backing_size = size});
  // No holes, and each word tells where it belongs and who wrote it.
  const auto word_at = [](std::uint64_t offset, std::uint64_t writer) {
    return (offset / 8 << 8 | writer) + 1;
  };
  const auto fill = [&](std::uint64_t offset, std::uint64_t length, std::uint64_t writer) {
    Bytes bytes(length);
    for (std::uint64_t i = 0; i < length; i += 8) {
      const auto word = word_at(offset + i, writer);
      std::memcpy(&bytes[i], &word, 8);
    }
    return bytes;
  };
  if (GetParam() == Place::memory) {
    in_memory_.backing->open()->write(0, fill(0, size, 0));
  } else {
    tests::write_file(on_disk_.backing, fill(0, size, 0));
  }
  const auto image = open();
  std::atomic<unsigned> running = writers;
  std::atomic<bool> wrong = false;
  std::vector<std::jthread> threads;
  for (unsigned id = 1; id <= writers; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(id);
      for (int i = 0; i < 1500; ++i) {
        const auto offset = random.between(0, size / 8 - 1) * 8;
        const auto length =
            random.between(1, std::min<std::uint64_t>((size - offset) / 8, 200)) * 8;
        image->write(offset, fill(offset, length, id));
        if (random.one_in(50)) image->flush();
      }
      --running;
    });
  }
  for (unsigned id = 0; id < 2; ++id) {
    threads.emplace_back([&, id] {
      tests::TestRandom random(100 + id);
      tests::ViewReader viewer;
      while (running > 0) {
        const auto offset = random.between(0, size / 8 - 1) * 8;
        const auto length =
            random.between(1, std::min<std::uint64_t>((size - offset) / 8, 4000)) * 8;
        const auto found = id == 0 ? tests::read_image(*image, offset, length)
                                   : viewer.read(*image, offset, length);
        for (std::uint64_t i = 0; i < length; i += 8) {
          std::uint64_t word = 0;
          std::memcpy(&word, &found[i], 8);
          bool right = false;
          for (unsigned writer = 0; writer <= writers; ++writer) {
            right = right || word == word_at(offset + i, writer);
          }
          if (!right) wrong = true;
        }
      }
    });
  }
  threads.clear();
  EXPECT_FALSE(wrong) << "a word that nobody ever wrote was read";
}

INSTANTIATE_TEST_SUITE_P(In, ImageThreads, testing::Values(Place::memory, Place::files),
                         [](const auto& test) {
                           return std::string(test.param == Place::memory ? "memory" : "files");
                         });

}  // namespace
}  // namespace cowfs::core
