// Space: discard, write-zeroes and preallocation, data and holes, and what is said to be taken.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

constexpr std::uint64_t odd_size = 3'000'001;
constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int zero_range = FALLOC_FL_ZERO_RANGE;
constexpr int keep_size = FALLOC_FL_KEEP_SIZE;

bool is_zero(const Bytes& bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{}; });
}

class Space : public MountTest {
 protected:
  Space() : files_(make_files(odd_size)), model_(files_.content) {}

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] ImageModel& model() { return model_; }
  [[nodiscard]] Mounted mount() { return mount_image(files_.cow.string(), point()); }

 private:
  CowAndBacking files_;
  ImageModel model_;
};

TEST_F(Space, PunchedAndZeroedRangesOfAnyKindMatchAModelAlsoAfterTheNextMount) {
  {
    const auto mounted = mount();
    const std::array handles{open_file(mounted.file(), O_RDWR),
                             open_file(mounted.file(), O_RDWR | O_DIRECT)};
    for (int i = 0; i < 3000; ++i) {
      const auto& handle = handles[random().between(0, 1)];
      const auto range = model().random_range(random(), 200'000);
      switch (random().between(0, 3)) {
        case 0:
          ASSERT_NO_FATAL_FAILURE(model().zero(handle, punch, range));
          break;
        case 1:
          ASSERT_NO_FATAL_FAILURE(model().zero(handle, zero_range | keep_size, range));
          break;
        case 2:
          ASSERT_NO_FATAL_FAILURE(model().write(handle, range, random()));
          break;
        default:
          ASSERT_NO_FATAL_FAILURE(model().check_read(handle, range));
      }
    }
    for (const auto& handle : handles) ASSERT_NO_FATAL_FAILURE(model().check_all(handle));
  }
  const auto again = mount();
  model().check_all(open_file(again.file(), O_RDONLY));
}

TEST_F(Space, PunchingGivesBackWhatTheCowTook) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(model().write(file, {0, 2'000'000}, random()));
  sync_file(file);
  const auto blocks_before = status_of(files().cow).st_blocks;
  ASSERT_NO_FATAL_FAILURE(model().zero(file, punch, {0, 2'000'000}));
  sync_file(file);
  EXPECT_LT(status_of(files().cow).st_blocks, blocks_before - 3000);
  model().check_all(file);
}

TEST_F(Space, PunchingWhereTheBackingHasDataHidesItAndCostsNoData) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  const auto blocks_before = status_of(files().cow).st_blocks;
  ASSERT_NO_FATAL_FAILURE(model().zero(file, punch, {0, files().size()}));
  sync_file(file);
  EXPECT_TRUE(is_zero(read_at(file, 0, files().size())));
  // One page of the bitmap, and what the host's file system spends on it.
  EXPECT_LE(status_of(files().cow).st_blocks, blocks_before + 64);
}

TEST_F(Space, RangesMayReachPastTheEndIfTheyKeepTheSize) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  const auto size = files().size();
  for (const int mode : {punch, zero_range | keep_size}) {
    ASSERT_NO_FATAL_FAILURE(model().zero(file, mode, {size - 3000, 100'000}));
    ASSERT_NO_FATAL_FAILURE(model().zero(file, mode, {size + 4096, 100'000}));
  }
  EXPECT_EQ(error_of([&] { allocate(file, keep_size, size - 3000, 100'000); }), 0);
  for (const int mode : {0, zero_range}) {
    EXPECT_EQ(error_of([&] { allocate(file, mode, 0, size); }), 0);
    if (mode == zero_range) model() = ImageModel(Bytes(size));
    EXPECT_EQ(error_of([&] { allocate(file, mode, size - 3000, 3001); }), ENOSPC);
    EXPECT_EQ(error_of([&] { allocate(file, mode, size, 1); }), ENOSPC);
  }
  EXPECT_EQ(static_cast<std::size_t>(status_of(file).st_size), size);
  model().check_all(file);
}

TEST_F(Space, PreallocationTakesSpaceInTheCowAndChangesNoByte) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  for (const auto& [mode, range] : {std::pair{0, Range{10'000, 1'000'000}},
                                    std::pair{keep_size, Range{1'500'000, 1'000'000}}}) {
    const auto blocks_before = status_of(files().cow).st_blocks;
    allocate(file, mode, range.offset, range.length);
    EXPECT_GE(status_of(files().cow).st_blocks, blocks_before + 1900);
    model().check_all(file);
  }
  EXPECT_FALSE(in_bitmap_of_file(files(), 20'000));
}

TEST_F(Space, OtherModesOfFallocateAreNotSupported) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  for (const int mode : {FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE,
                         FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE}) {
    EXPECT_EQ(error_of([&] { allocate(file, mode, 4096, 4096); }), EOPNOTSUPP) << mode;
  }
  model().check_all(file);
}

TEST_F(Space, DataIsFoundAndHolesReadAsZeros) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  for (int i = 0; i < 20; ++i) {
    const auto range = model().random_range(random(), 50'000);
    if (random().one_in(2)) {
      ASSERT_NO_FATAL_FAILURE(model().write(file, range, random()));
    } else {
      ASSERT_NO_FATAL_FAILURE(model().zero(file, punch, range));
    }
  }
  const auto size = files().size();
  std::uint64_t position = 0;
  std::uint64_t bytes_in_holes = 0;
  while (position < size) {
    std::uint64_t data = size;
    const int error = error_of([&] { data = seek(file, position, SEEK_DATA); });
    ASSERT_TRUE(error == 0 || error == ENXIO) << error;
    ASSERT_LE(data, size);
    bytes_in_holes += data - position;
    EXPECT_TRUE(is_zero(read_at(file, position, data - position)))
        << "hole from " << position << " to " << data;
    if (data == size) break;
    const auto hole = seek(file, data, SEEK_HOLE);
    ASSERT_GT(hole, data);
    ASSERT_LE(hole, size);
    position = hole;
  }
  // The backing is about half holes.
  EXPECT_GT(bytes_in_holes, size / 8);
}

TEST_F(Space, HolesOfBothFilesAreHolesAndDataInEitherIsData) {
  // The backing: data in [0, 64K), then a hole. Sizes are those of blocks on any file system.
  constexpr std::uint64_t unit = 65536;
  const auto backing = make_file(directory() / "sparse.backing");
  backing->resize(16 * unit);
  backing->write(0, random().bytes(unit));
  const auto cow = (directory() / "sparse.cow").string();
  ASSERT_EQ(cowfs({"create", cow, (directory() / "sparse.backing").string()}).status, 0);
  const auto mounted = mount_image(cow, point());
  const auto file = open_file(mounted.file(), O_RDWR);
  EXPECT_EQ(seek(file, 0, SEEK_DATA), 0U);
  EXPECT_EQ(seek(file, 0, SEEK_HOLE), unit);
  EXPECT_EQ(error_of([&] { seek(file, unit, SEEK_DATA); }), ENXIO);
  write_at(file, 8 * unit, random().bytes(2 * unit));
  sync_file(file);
  EXPECT_EQ(seek(file, unit, SEEK_DATA), 8 * unit);
  EXPECT_EQ(seek(file, 8 * unit, SEEK_HOLE), 10 * unit);
  EXPECT_EQ(error_of([&] { seek(file, 10 * unit, SEEK_DATA); }), ENXIO);
  allocate(file, punch, 0, unit);
  sync_file(file);
  EXPECT_EQ(seek(file, 0, SEEK_HOLE), 0U);
  EXPECT_EQ(seek(file, 0, SEEK_DATA), 8 * unit);
}

TEST_F(Space, SeekingAtTheEndOrOutsideIsENXIO) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDONLY);
  for (const int whence : {SEEK_DATA, SEEK_HOLE}) {
    for (const std::uint64_t offset : {files().size(), files().size() + 1, ~std::size_t{0}}) {
      EXPECT_EQ(error_of([&] { seek(file, offset, whence); }), ENXIO) << offset;
    }
  }
}

TEST_F(Space, BlocksOfTheMergedFileAreThoseThatTheCowTakes) {
  const auto mounted = mount();
  EXPECT_EQ(status_of(mounted.file()).st_blocks, status_of(files().cow).st_blocks);
  const auto file = open_file(mounted.file(), O_RDWR);
  const auto blocks_before = status_of(file).st_blocks;
  ASSERT_NO_FATAL_FAILURE(model().write(file, {100'000, 1'000'000}, random()));
  sync_file(file);
  const auto du = run({.command = {"du", "--block-size=512", mounted.file().string()}});
  EXPECT_EQ(std::stol(du.out), status_of(files().cow).st_blocks);
  EXPECT_GE(status_of(file).st_blocks, blocks_before + 1900);
}

/// Nobody else uses it, so that its space does not change under the test.
TestMount mount_small_disk(const fs::path& point, const std::string& size) {
  fs::create_directory(point);
  return mount_memory(point, "size=" + size);
}

TEST_F(Space, StatfsTellsTheRoomForTheCow) {
  const auto small = mount_small_disk(directory() / "small", "8M");
  const auto cow = small.point() / "cow";
  ASSERT_EQ(cowfs({"create", cow.string(), files().backing.string()}).status, 0);
  const auto mounted = mount_image(cow.string(), point());
  const auto space = [](const fs::path& path) {
    struct statvfs found {};
    EXPECT_EQ(::statvfs(path.c_str(), &found), 0);
    return std::array{found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize,
                      found.f_bavail * found.f_frsize};
  };
  EXPECT_EQ(space(mounted.file()), space(cow));
  const auto before = space(mounted.file());
  write_at(open_file(mounted.file(), O_WRONLY), 0, random().bytes(1'000'000));
  EXPECT_EQ(space(mounted.file()), space(cow));
  EXPECT_LT(space(mounted.file())[1], before[1]);
}

TEST_F(Space, AFullDiskIsAnErrorToTheWriterAndChangesNothing) {
  const auto small = mount_small_disk(directory() / "small", "1M");
  const auto cow = small.point() / "cow";
  ASSERT_EQ(cowfs({"create", cow.string(), files().backing.string()}).status, 0);
  {
    const auto mounted = mount_image(cow.string(), point());
    for (const int flags : {0, O_DIRECT}) {
      const auto file = open_file(mounted.file(), O_RDWR | flags);
      // In pieces of a page: each is taken wholly or not at all.
      int error = 0;
      for (std::uint64_t offset = 0; offset < 2'000'000 && error == 0; offset += 4096) {
        const auto bytes = random().bytes(4096);
        auto changed = model().content();
        error = error_of([&] { write_at(file, offset, bytes); });
        if (error == 0) {
          std::ranges::copy(bytes, changed.begin() + static_cast<std::ptrdiff_t>(offset));
          model() = ImageModel(std::move(changed));
        }
      }
      EXPECT_EQ(error, ENOSPC);
      ASSERT_NO_FATAL_FAILURE(model().check_all(file));
    }
  }
  const auto again = mount_image(cow.string(), point());
  model().check_all(open_file(again.file(), O_RDONLY));
}

}  // namespace
}  // namespace cowfs::tests
