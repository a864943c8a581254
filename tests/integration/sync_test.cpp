// When a write is in the COW for good. What tells is the bitmap in the COW file: a sector whose bit
// is not there yet does not survive the end of everything.
//
// All mounts here have commit=0, save where the timer is the subject: nothing is flushed unasked.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"

namespace cowfs::tests {
namespace {

constexpr std::uint64_t image_size = 1'000'000;
constexpr std::uint64_t somewhere = 300'000;

class Sync : public MountTest {
 protected:
  Sync() : files_(make_files(image_size)) {}

  [[nodiscard]] Mounted mount(const std::string& commit = "0") {
    return mount_image(files_.cow.string(), point(), {"-o", "commit=" + commit});
  }
  void write_somewhere(const core::FileDescriptor& file) {
    ASSERT_EQ(write_at(file, somewhere, random().bytes(5000)), 5000U);
  }
  /// Of the first sector that write_somewhere writes and of the last.
  [[nodiscard]] bool is_in_bitmap() const {
    const bool first = in_bitmap_of_file(files_, somewhere);
    EXPECT_EQ(first, in_bitmap_of_file(files_, somewhere + 4999));
    return first;
  }

 private:
  CowAndBacking files_;
};

TEST_F(Sync, AWriteIsNotInTheBitmapUntilFsyncOrFdatasync) {
  for (const auto& [name, sync] :
       std::vector<std::pair<std::string, std::function<void(const core::FileDescriptor&)>>>{
           {"fsync", sync_file}, {"fdatasync", sync_data}}) {
    for (const int flags : {0, O_DIRECT}) {
      SCOPED_TRACE(name + (flags == 0 ? ", plain" : ", direct"));
      auto files = make_files(image_size, name + std::to_string(flags));
      const auto mounted = mount_image(files.cow.string(), point(), {"-o", "commit=0"});
      const auto file = open_file(mounted.file(), O_RDWR | flags);
      ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
      EXPECT_FALSE(in_bitmap_of_file(files, somewhere));
      sync(file);
      EXPECT_TRUE(in_bitmap_of_file(files, somewhere));
      EXPECT_TRUE(in_bitmap_of_file(files, somewhere + 4999));
      EXPECT_FALSE(in_bitmap_of_file(files, somewhere + 6000));
    }
  }
}

TEST_F(Sync, AnyHandleMayAskForTheFlush) {
  const auto mounted = mount();
  const auto writer = open_file(mounted.file(), O_RDWR);
  const auto reader = open_file(mounted.file(), O_RDONLY | O_DIRECT);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(writer));
  EXPECT_FALSE(is_in_bitmap());
  sync_data(reader);
  EXPECT_TRUE(is_in_bitmap());
}

struct SynchronousOpen {
  std::string name;
  int flags;
};

void PrintTo(const SynchronousOpen& open, std::ostream* out) { *out << open.name; }

class SyncByOpen : public Sync, public ::testing::WithParamInterface<SynchronousOpen> {};

TEST_P(SyncByOpen, EachWriteIsInTheBitmapWhenItReturns) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR | GetParam().flags);
  EXPECT_FALSE(is_in_bitmap());
  ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
  EXPECT_TRUE(is_in_bitmap());
}

INSTANTIATE_TEST_SUITE_P(, SyncByOpen,
                         ::testing::Values(SynchronousOpen{"OSync", O_SYNC},
                                           SynchronousOpen{"ODsync", O_DSYNC},
                                           SynchronousOpen{"OSyncDirect", O_SYNC | O_DIRECT},
                                           SynchronousOpen{"ODsyncDirect", O_DSYNC | O_DIRECT}),
                         [](const auto& test) { return test.param.name; });

TEST_F(Sync, ASingleWriteMayAskToBeSynchronous) {
  for (const int open_flags : {0, O_DIRECT}) {
    for (const int write_flags : {RWF_SYNC, RWF_DSYNC}) {
      SCOPED_TRACE(::testing::Message() << "open " << open_flags << ", write " << write_flags);
      const auto name = std::to_string(open_flags) + "-" + std::to_string(write_flags);
      const auto files = make_files(image_size, name);
      const auto mounted = mount_image(files.cow.string(), point(), {"-o", "commit=0"});
      const auto file = open_file(mounted.file(), O_RDWR | open_flags);
      auto bytes = random().bytes(5000);
      const iovec piece{bytes.data(), bytes.size()};
      ASSERT_EQ(::pwritev2(file.get(), &piece, 1, static_cast<off_t>(somewhere), write_flags),
                static_cast<ssize_t>(bytes.size()));
      EXPECT_TRUE(in_bitmap_of_file(files, somewhere));
    }
  }
}

TEST_F(Sync, CloseReturnsWhenAllIsFlushed) {
  for (const int flags : {0, O_DIRECT}) {
    for (const bool is_only_handle : {true, false}) {
      const auto name = std::to_string(flags) + (is_only_handle ? "only" : "one");
      const auto files = make_files(image_size, name);
      const auto mounted = mount_image(files.cow.string(), point(), {"-o", "commit=0"});
      auto file = open_file(mounted.file(), O_RDWR | flags);
      const auto other =
          is_only_handle ? core::FileDescriptor() : open_file(mounted.file(), O_RDONLY);
      ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
      EXPECT_FALSE(in_bitmap_of_file(files, somewhere));
      ASSERT_EQ(::close(file.release()), 0);
      EXPECT_TRUE(in_bitmap_of_file(files, somewhere));
    }
  }
}

TEST_F(Sync, MsyncOfAMappingFlushes) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR);
  const MappedFile mapping(file, image_size, PROT_READ | PROT_WRITE, MAP_SHARED);
  mapping.bytes()[somewhere] ^= std::byte{1};
  mapping.bytes()[somewhere + 4999] ^= std::byte{1};
  EXPECT_FALSE(is_in_bitmap());
  mapping.sync();
  EXPECT_TRUE(is_in_bitmap());
}

TEST_F(Sync, AnOpenedImageIsFlushedUnaskedByTheTimer) {
  const auto mounted = mount("1");
  const auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
  EXPECT_TRUE(eventually([&] { return is_in_bitmap(); }));
}

TEST_F(Sync, ByDefaultThereIsATimer) {
  const auto files = make_files(image_size, "default");
  const auto mounted = mount_image(files.cow.string(), point());
  const auto file = open_file(mounted.file(), O_RDWR);
  ASSERT_NO_FATAL_FAILURE(write_somewhere(file));
  EXPECT_TRUE(eventually([&] { return in_bitmap_of_file(files, somewhere); }));
}

}  // namespace
}  // namespace cowfs::tests
