// A backing that is cut short while it is in use: what is gone is an I/O error to its reader, and
// to nobody else.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t image_size = 8 * mebibyte;
constexpr std::size_t left_over = 2 * mebibyte;

/// Where the COW has data of its own, past what is left of the backing. In whole pages: a plain
/// handle reads no less.
constexpr Range in_cow{6 * mebibyte, 74 * 4096};

class TruncatedBacking : public MountTest {
 protected:
  TruncatedBacking()
      : content_(random().bytes(image_size)),
        model_(content_),
        backing_(directory() / "backing"),
        cow_(directory() / "cow") {
    write_file(backing_, std::span(content_));
    EXPECT_EQ(cowfs({"create", cow_.string(), backing_.string()}).status, 0);
  }

  [[nodiscard]] const fs::path& backing() const { return backing_; }
  [[nodiscard]] const fs::path& cow() const { return cow_; }
  [[nodiscard]] ImageModel& model() { return model_; }

 private:
  Bytes content_;
  ImageModel model_;
  fs::path backing_;
  fs::path cow_;
};

TEST_F(TruncatedBacking, IsAnErrorToTheReaderOfWhatIsGoneAndTheDaemonLivesAndSaysSo) {
  ForegroundMount mount(cow().string(), point());
  const auto plain = open_file(point(), O_RDWR);
  const auto direct = open_file(point(), O_RDWR | O_DIRECT);
  ASSERT_NO_FATAL_FAILURE(model().write(plain, in_cow, random()));
  fs::resize_file(backing(), left_over);

  for (const auto* file : {&plain, &direct}) {
    SCOPED_TRACE(file == &plain ? "plain" : "direct");
    for (const auto offset : {left_over, left_over + 12'345, image_size - 1}) {
      EXPECT_EQ(error_of([&] { read_at(*file, offset, 4096); }), EIO) << offset;
    }
    // All that is still there is still to be had, up to the edge.
    ASSERT_NO_FATAL_FAILURE(model().check_read(*file, {0, left_over - 10'000}));
    ASSERT_NO_FATAL_FAILURE(model().check_read(*file, {left_over - 4096, 4096}));
    ASSERT_NO_FATAL_FAILURE(model().check_read(*file, in_cow));
  }
  EXPECT_FALSE(mount.process().watched().has_ended());
  EXPECT_EQ(mount.mounted().worker().pid(), ask_daemon(point()).worker);
  EXPECT_THAT(mount.process().err(), ::testing::HasSubstr(backing().string()));
  EXPECT_THAT(mount.process().err(), ::testing::HasSubstr("can't be read"));
}

TEST_F(TruncatedBacking, IsASignalToTheReaderOfAMapping) {
  ForegroundMount mount(cow().string(), point());
  fs::resize_file(backing(), left_over);
  const auto worker_before = mount.mounted().worker().pid();
  for (const int flags : {0, O_DIRECT}) {
    if (flags == O_DIRECT && !kernel_is_at_least(6, 6)) continue;
    const auto file = open_file(point(), O_RDONLY | flags);
    const MappedFile mapping(file, image_size, PROT_READ, MAP_SHARED);
    EXPECT_EQ(mapping.bytes()[1000], model().content()[1000]);
    Worker reader([&] {
      // No address sanitizer's or GoogleTest's idea of what the signal is to do.
      ::signal(SIGBUS, SIG_DFL);
      const volatile auto byte = mapping.bytes()[left_over + mebibyte];
      (void)byte;
    });
    EXPECT_EQ(reader.wait().status, 128 + SIGBUS);
    EXPECT_EQ(mapping.bytes()[left_over - 1], model().content()[left_over - 1]);
  }
  EXPECT_EQ(mount.mounted().worker().pid(), worker_before);
}

TEST_F(TruncatedBacking, FailsAWriteThatNeedsTheRestOfASectorAndTheSectorIsAsBefore) {
  const auto recorded = status_of(backing()).st_mtim.tv_sec;
  {
    const auto mounted = mount_image(cow().string(), point());
    const auto file = open_file(point(), O_RDWR | O_DIRECT);
    fs::resize_file(backing(), left_over);
    const int error =
        error_of([&] { write_at(file, left_over + mebibyte + 100, random().bytes(50)); });
    // The daemon may have noticed the change before that, and then refuses any write.
    EXPECT_TRUE(error == EIO || error == EROFS) << error;
  }
  write_file(backing(), std::span(model().content()));
  set_mtime(backing(), recorded);
  const auto mounted = mount_image(cow().string(), point());
  model().check_all(open_file(point(), O_RDONLY));
}

}  // namespace
}  // namespace cowfs::tests
