// How much of the merged file the kernel keeps cached: as much as the mount says, because each page
// of it is a second copy of one that the backing or the COW has cached.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <string>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::tests {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
constexpr std::uint64_t image_size = 1024 * mebibyte;

/// The window has 16 MiB by default, and the kernel reads ahead.
constexpr std::uint64_t most_cached_twice = 32 * mebibyte;

/// Whether no more of the file than that stays cached: what is dropped is dropped a little later.
bool comes_down_to(std::uint64_t most, const boost::filesystem::path& file) {
  return eventually([&] { return resident_bytes(file) <= most; });
}

/// Whether so much of the file is cached after `read`. Tried some times, since the kernel may drop
/// what is cached whenever it likes, or is asked to (vm.drop_caches).
template <typename Function>
bool keeps_cached(std::uint64_t least, const boost::filesystem::path& file, Function&& read) {
  for (int i = 0; i < 5; ++i) {
    read();
    if (resident_bytes(file) >= least) return true;
  }
  return false;
}

class PageCache : public MountTest {
 protected:
  PageCache() : backing_(directory() / "backing") {
    // Sparse: a hole takes as much page cache as data, when it is read, and no time to make.
    const auto backing = make_file(backing_);
    backing->resize(image_size);
    for (std::uint64_t at = 0; at < image_size; at += 64 * mebibyte) {
      backing->write(at, random().bytes(100'000));
    }
  }

  [[nodiscard]] const boost::filesystem::path& backing() const { return backing_; }

  [[nodiscard]] Mounted mount(const std::string& options, const std::string& name = "cow") {
    const auto cow = directory() / name;
    EXPECT_EQ(cowfs({"create", "--force", cow.string(), backing_.string()}).status, 0);
    const auto where = directory() / (name + ".merged");
    write_file(where, std::string());
    return mount_image(cow.string(), where, {"-o", options});
  }

 private:
  boost::filesystem::path backing_;
};

void read_through(const boost::filesystem::path& path, int flags = 0,
                  std::uint64_t length = image_size) {
  const auto file = open_file(path, O_RDONLY | flags);
  constexpr std::size_t step = 128 * 1024;
  for (std::uint64_t offset = 0; offset < length; offset += step) {
    ASSERT_EQ(read_at(file, offset, step).size(), step);
  }
}

TEST_F(PageCache, AfterReadingOneGibibytePlainlyAtMostTheWindowIsCachedTwice) {
  const auto mounted = mount("cache=window");
  const auto read = [&] { read_through(mounted.file()); };
  // The one copy.
  EXPECT_TRUE(keeps_cached(image_size / 2, backing(), read));
  EXPECT_TRUE(comes_down_to(most_cached_twice, mounted.file()));
}

TEST_F(PageCache, WithCacheKernelMostOfItStaysCachedTwice) {
  const auto mounted = mount("cache=kernel");
  EXPECT_TRUE(keeps_cached(image_size / 2, mounted.file(), [&] { read_through(mounted.file()); }));
}

TEST_F(PageCache, WithCacheNoneNothingIsCachedTwice) {
  const auto mounted = mount("cache=none");
  read_through(mounted.file());
  EXPECT_EQ(resident_bytes(mounted.file()), 0U);
}

TEST_F(PageCache, AfterDirectReadsNothingIsCachedTwice) {
  const auto mounted = mount("cache=window");
  read_through(mounted.file(), O_DIRECT);
  EXPECT_EQ(resident_bytes(mounted.file()), 0U);
}

TEST_F(PageCache, TheWindowHasTheSizeThatIsAskedFor) {
  const auto mounted = mount("cache=window:100M");
  EXPECT_TRUE(keeps_cached(60 * mebibyte, mounted.file(), [&] {
    read_through(mounted.file());
    EXPECT_TRUE(comes_down_to(120 * mebibyte, mounted.file()));
  }));
}

TEST_F(PageCache, WhatFitsIntoTheWindowStaysCached) {
  const auto mounted = mount("cache=window:16M");
  EXPECT_TRUE(keeps_cached(8 * mebibyte, mounted.file(),
                           [&] { read_through(mounted.file(), 0, 8 * mebibyte); }));
}

TEST_F(PageCache, ManyMountsOfOneBackingCostOneBackingAndAWindowEach) {
  const auto first = mount("cache=window", "first");
  const auto second = mount("cache=window", "second");
  const auto third = mount("cache=window", "third");
  for (const auto* mounted : {&first, &second, &third}) {
    read_through(mounted->file(), 0, 200 * mebibyte);
  }
  for (const auto* mounted : {&first, &second, &third}) {
    EXPECT_TRUE(comes_down_to(most_cached_twice, mounted->file()));
  }
}

TEST_F(PageCache, WritesStayWithinTheWindowToo) {
  const auto mounted = mount("cache=window");
  const auto file = open_file(mounted.file(), O_RDWR);
  const auto bytes = random().bytes(mebibyte);
  for (std::uint64_t offset = 0; offset < 200 * mebibyte; offset += mebibyte) {
    ASSERT_EQ(write_at(file, offset, bytes), bytes.size());
  }
  EXPECT_TRUE(comes_down_to(most_cached_twice, mounted.file()));
}

TEST_F(PageCache, AMappingOfAPlainHandleStaysWithinTheWindowToo) {
  const auto mounted = mount("cache=window");
  const auto file = open_file(mounted.file(), O_RDONLY);
  constexpr std::size_t length = 200 * mebibyte;
  const MappedFile mapping(file, length, PROT_READ, MAP_SHARED);
  unsigned sum = 0;
  for (std::size_t offset = 0; offset < length; offset += 4096) {
    sum += std::to_integer<unsigned>(mapping.bytes()[offset]);
  }
  EXPECT_GT(sum, 0U);
  EXPECT_TRUE(comes_down_to(most_cached_twice, mounted.file()));
}

}  // namespace
}  // namespace cowfs::tests
