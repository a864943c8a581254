// The merged file as a file: its size, and reads and writes at any offset and of any length.

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <ostream>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

using MergedFile = MountTest;

constexpr std::uint64_t odd_size = 3'000'001;

TEST_F(MergedFile, HasTheSizeOfItsBackingInWholeSectorsAndZerosAtItsEnd) {
  for (const std::uint64_t size : {1U, 511U, 512U, 513U, 4095U, 4097U, 1'048'576U, 3'000'001U}) {
    SCOPED_TRACE(size);
    const auto files = make_files(size, std::to_string(size));
    const auto mounted = mount_image(files.cow.string(), point());
    const auto merged_size = (size + 511) / 512 * 512;
    EXPECT_EQ(static_cast<std::uint64_t>(status_of(mounted.file()).st_size), merged_size);
    for (const int flags : {0, O_DIRECT}) {
      const auto file = open_file(mounted.file(), O_RDONLY | flags);
      EXPECT_EQ(seek(file, 0, SEEK_END), merged_size);
      const auto content = read_at(file, 0, 2 * files.size());
      EXPECT_TRUE(content == files.content) << difference(content, files.content);
      EXPECT_TRUE(std::all_of(content.begin() + static_cast<std::ptrdiff_t>(size), content.end(),
                              [](std::byte b) { return b == std::byte{}; }));
    }
  }
}

TEST_F(MergedFile, OfAnEmptyBackingIsEmpty) {
  const auto files = make_files(0);
  const auto mounted = mount_image(files.cow.string(), point());
  const auto file = open_file(mounted.file(), O_RDWR);
  EXPECT_EQ(status_of(file).st_size, 0);
  EXPECT_TRUE(read_at(file, 0, 512).empty());
  EXPECT_EQ(error_of([&] { write_at(file, 0, Bytes(512)); }), ENOSPC);
}

// How a program uses the file, and how it is mounted.
struct Use {
  std::string name;
  std::vector<int> open_flags;  ///< one handle each, used in turn at random
  std::vector<std::string> options;
};

void PrintTo(const Use& use, std::ostream* out) { *out << use.name; }

class MergedFileInUse : public MountTest, public ::testing::WithParamInterface<Use> {
 protected:
  [[nodiscard]] std::vector<core::FileDescriptor> open_all(const Mounted& mounted) const {
    std::vector<core::FileDescriptor> handles;
    for (const int flags : GetParam().open_flags) {
      handles.push_back(open_file(mounted.file(), O_RDWR | flags));
    }
    return handles;
  }
};

TEST_P(MergedFileInUse, ReadsAreNeverShortInsideTheImage) {
  const auto files = make_files(odd_size);
  const auto mounted = mount_image(files.cow.string(), point(), GetParam().options);
  const auto handles = open_all(mounted);
  ImageModel model(files.content);
  // Sectors of the COW and of the backing in turn are what cuts a read into the most pieces.
  for (std::uint64_t offset = 0; offset < 400'000; offset += 1024) {
    ASSERT_NO_FATAL_FAILURE(model.write(handles[0], {offset, 512}, random()));
  }
  for (int i = 0; i < 200; ++i) {
    const auto& handle = handles[random().between(0, handles.size() - 1)];
    ASSERT_NO_FATAL_FAILURE(
        model.check_read(handle, model.random_range(random(), std::size_t{3} << 20)));
  }
}

TEST_P(MergedFileInUse, RandomReadsAndWritesMatchAModelAlsoAfterTheNextMount) {
  const auto files = make_files(odd_size);
  ImageModel model(files.content);
  {
    const auto mounted = mount_image(files.cow.string(), point(), GetParam().options);
    const auto handles = open_all(mounted);
    for (int i = 0; i < 4000; ++i) {
      const auto& handle = handles[random().between(0, handles.size() - 1)];
      const auto range = model.random_range(random(), 300'000);
      if (random().one_in(2)) {
        ASSERT_NO_FATAL_FAILURE(model.write(handle, range, random()));
      } else {
        ASSERT_NO_FATAL_FAILURE(model.check_read(handle, range));
      }
    }
    for (const auto& handle : handles) ASSERT_NO_FATAL_FAILURE(model.check_all(handle));
  }
  const auto again = mount_image(files.cow.string(), point(), {"-o", "ro"});
  model.check_all(open_file(again.file(), O_RDONLY));
}

TEST_P(MergedFileInUse, AWriteAcrossTheEndIsCutThereAndOneAtTheEndIsRefused) {
  const auto files = make_files(odd_size);
  const auto mounted = mount_image(files.cow.string(), point(), GetParam().options);
  ImageModel model(files.content);
  const auto size = files.size();
  for (const auto& handle : open_all(mounted)) {
    ASSERT_NO_FATAL_FAILURE(model.write(handle, {size - 100, 4096}, random()));
    ASSERT_NO_FATAL_FAILURE(model.write(handle, {size - 5000, 2'000'000}, random()));
    ASSERT_NO_FATAL_FAILURE(model.write(handle, {size, 1}, random()));
    ASSERT_NO_FATAL_FAILURE(model.write(handle, {size + 1'000'000, 4096}, random()));
    EXPECT_EQ(static_cast<std::size_t>(status_of(handle).st_size), size);
    ASSERT_NO_FATAL_FAILURE(model.check_all(handle));
    EXPECT_TRUE(read_at(handle, size, 512).empty());
    EXPECT_TRUE(read_at(handle, size + 1'000'000, 512).empty());
  }
}

TEST_P(MergedFileInUse, AppendingIsRefusedForWantOfSpace) {
  const auto files = make_files(odd_size);
  const auto mounted = mount_image(files.cow.string(), point(), GetParam().options);
  for (const int flags : GetParam().open_flags) {
    const auto file = open_file(mounted.file(), O_WRONLY | O_APPEND | flags);
    EXPECT_EQ(error_of([&] { write_at(file, 0, Bytes(512)); }), ENOSPC);
  }
  EXPECT_EQ(static_cast<std::size_t>(status_of(mounted.file()).st_size), files.size());
}

INSTANTIATE_TEST_SUITE_P(
    , MergedFileInUse,
    ::testing::Values(Use{"Plain", {0}, {}}, Use{"Direct", {O_DIRECT}, {}},
                      Use{"PlainAndDirect", {0, O_DIRECT}, {}},
                      Use{"PlainWithoutCache", {0}, {"-o", "cache=none"}},
                      Use{"PlainAndDirectCachedByTheKernel", {0, O_DIRECT}, {"-o", "cache=kernel"}},
                      Use{"WithTheSmallestWindow", {0, O_DIRECT}, {"-o", "cache=window:1M"}},
                      Use{"ServedByOneThread", {0, O_DIRECT}, {"-o", "threads=1"}}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace cowfs::tests
