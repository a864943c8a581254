// Images with an empty file system, by the system's own programs; and drawing an image in cells.

#include "cowcore/make_image.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "cowcore/errors.hpp"
#include "cowcore/image_cells.hpp"
#include "cowcore/run_program.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::message_of;

constexpr std::uint64_t mebibyte = 1 << 20;

class MakeImage : public testing::Test {
 protected:
  [[nodiscard]] std::string refusal(const std::string& kind, std::uint64_t size,
                                    IfExists if_exists = IfExists::refuse) const {
    return message_of<Error>([&] { make_image(kind, size, image_, if_exists); });
  }
  [[nodiscard]] std::vector<std::string> names() const {
    return tests::names_in(directory_.path());
  }

  tests::TemporaryDirectory directory_;
  fs::path image_ = directory_ / "image";
};

class MakeEveryImage : public MakeImage, public testing::WithParamInterface<std::string> {};

TEST_P(MakeEveryImage, IsSparseAndOfItsSize) {
  make_image(GetParam(), 512 * mebibyte, image_, IfExists::refuse);
  EXPECT_EQ(fs::file_size(image_), 512 * mebibyte);
  struct stat found {};
  ASSERT_EQ(::stat(image_.c_str(), &found), 0);
  EXPECT_LT(static_cast<std::uint64_t>(found.st_blocks) * 512, 128 * mebibyte);
  EXPECT_THAT(names(), ElementsAre("image"));
  const auto blkid = find_program("blkid");
  ASSERT_TRUE(blkid);
  const auto type =
      run_program(*blkid, {"-p", "-o", "value", "-s", "TYPE", image_.string()}, [] {});
  EXPECT_EQ(type.output, GetParam() + "\n");
}

INSTANTIATE_TEST_SUITE_P(Kinds, MakeEveryImage, testing::ValuesIn(image_kinds()),
                         [](const auto& test) { return test.param; });

TEST_F(MakeImage, WhatItsProgramSaysIsToldAndNothingIsLeft) {
  EXPECT_THAT(refusal("ext4", 512), AllOf(HasSubstr(image_.string() + ": mkfs.ext4 has failed: ")));
  EXPECT_THAT(refusal("swap", 4096), HasSubstr("mkswap has failed: "));
  EXPECT_THAT(names(), ElementsAre());
}

TEST_F(MakeImage, AMissingProgramIsNamedWithItsPackage) {
  // In a process of its own, where no file of that name can be found.
  const tests::ForkedProcess bare([&] {
    if (::chroot(directory_.path().c_str()) != 0) return false;
    const auto message =
        message_of<Error>([] { make_image("xfs", 512 * mebibyte, "/image", IfExists::refuse); });
    return message == "/image: mkfs.xfs is not installed; install the package xfsprogs" &&
           !fs::exists("/image");
  });
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  EXPECT_TRUE(bare.succeeded());
}

TEST_F(MakeImage, AnExistingFileIsOnlyReplacedIfThatIsAskedFor) {
  tests::write_file(image_, "precious");
  EXPECT_THAT(refusal("ext2", mebibyte), HasSubstr("exists; give another name, or --force"));
  EXPECT_EQ(fs::file_size(image_), 8U);
  EXPECT_THAT(refusal("ext2", 512, IfExists::replace), HasSubstr("has failed"));
  EXPECT_EQ(fs::file_size(image_), 8U) << "a failure has replaced it";
  make_image("ext2", mebibyte, image_, IfExists::replace);
  EXPECT_EQ(fs::file_size(image_), mebibyte);
  EXPECT_THAT(names(), ElementsAre("image"));
}

TEST_F(MakeImage, AFileInUseIsNotReplaced) {
  tests::write_file(image_, "a backing");
  const tests::ForkedProcess guest(
      [&] { return tests::take_process_lock(image_.c_str(), F_RDLCK); });
  ASSERT_TRUE(guest.succeeded());
  EXPECT_THROW(make_image("ext2", mebibyte, image_, IfExists::replace), Busy);
}

TEST_F(MakeImage, AMissingDirectoryIsTold) {
  image_ = directory_ / "missing" / "image";
  EXPECT_THAT(refusal("ext2", mebibyte), HasSubstr("there is no directory"));
}

TEST_F(MakeImage, CanBeCancelled) {
  const auto cancel = [](const ProgressReport&) { throw Cancelled("image"); };
  EXPECT_THROW(make_image("ext4", 512 * mebibyte, image_, IfExists::refuse, cancel), Cancelled);
  EXPECT_THAT(names(), ElementsAre());
}

TEST(RunProgram, TellsStatusAndOutput) {
  const auto shell = find_program("sh");
  ASSERT_TRUE(shell);
  const auto result = run_program(*shell, {"-c", "echo out; echo err >&2; exit 7"}, [] {});
  EXPECT_EQ(result.status, 7);
  EXPECT_EQ(result.output, "out\nerr\n");
  EXPECT_EQ(run_program(*shell, {"-c", "kill -9 $$"}, [] {}).status, 128 + 9);
  EXPECT_EQ(find_program("no-such-program"), std::nullopt);
  EXPECT_THROW((void)run_program("/no/such/program", {}, [] {}), std::system_error);
}

TEST(RunProgram, EndsTheProgramWhenItIsToStop) {
  const auto sleep = find_program("sleep");
  ASSERT_TRUE(sleep);
  EXPECT_THROW((void)run_program(*sleep, {"1000"}, [] { throw Cancelled("x"); }), Cancelled);
}

TEST(RunProgram, EndsTheProgramAlsoFromAThreadThatTakesNoSignals) {
  const auto sleep = find_program("sleep");
  ASSERT_TRUE(sleep);
  std::jthread([&] {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    EXPECT_THROW((void)run_program(*sleep, {"1000"}, [] { throw Cancelled("x"); }), Cancelled);
  }).join();
}

// Cells

TEST(ImageCells, AreAPowerOfTwoAndCoverTheImage) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{512}, 3 * mebibyte,
                                   1000 * mebibyte + 512, std::uint64_t{1} << 57}) {
    const ImageCells cells(size, 1000);
    EXPECT_LE(cells.cells().size(), 1000U);
    EXPECT_EQ(cells.cell_bytes() & (cells.cell_bytes() - 1), 0U);
    EXPECT_GE(cells.cells().size() * cells.cell_bytes(), size);
    if (cells.cell_bytes() == 512) continue;
    EXPECT_GT(size / (cells.cell_bytes() / 2), 999U) << "coarser than need be";
  }
}

TEST(ImageCells, AddUpWhatIsInThem) {
  ImageCells cells(10 * 512, 4);
  ASSERT_EQ(cells.cell_bytes(), 2048U);
  cells.add({.offset = 0, .length = 512, .source = Source::cow});
  cells.add({.offset = 512, .length = 3072, .source = Source::backing});
  cells.add({.offset = 3584, .length = 1536, .source = Source::zero});
  EXPECT_EQ(cells.cells(), (std::vector<SourceBytes>{{.cow = 512, .backing = 1536, .zero = 0},
                                                     {.cow = 0, .backing = 1536, .zero = 512},
                                                     {.cow = 0, .backing = 0, .zero = 1024}}));
  EXPECT_EQ(cells.total(), (SourceBytes{.cow = 512, .backing = 3072, .zero = 1536}));
}

}  // namespace
}  // namespace cowfs::core
