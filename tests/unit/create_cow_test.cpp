// Making an empty COW: what it looks like, what it replaces, and that a failure leaves no trace.

#include "cowcore/create_cow.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::error_of;
using tests::message_of;
using tests::names_in;

class CreateCow : public testing::Test {
 protected:
  void make_backing(std::uint64_t size) {
    tests::make_file(backing_)->resize(size);
    tests::set_mtime(backing_, tests::test_mtime);
  }

  [[nodiscard]] std::string refusal(IfExists if_exists = IfExists::refuse) const {
    return message_of<Error>([&] { create_cow(cow_, backing_, if_exists); });
  }

  tests::TemporaryDirectory directory_;
  fs::path backing_ = directory_ / "backing";
  fs::path cow_ = directory_ / "cow";
};

/// Runs the real one.
void run_uml_mkcow(const fs::path& cow, const fs::path& backing) {
  const auto command = "uml_mkcow '" + cow.string() + "' '" + backing.string() + "'";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

class CreateAsUmlMkcow : public CreateCow, public testing::WithParamInterface<std::uint64_t> {};

TEST_P(CreateAsUmlMkcow, ByteForByte) {
  make_backing(GetParam());
  ASSERT_NO_FATAL_FAILURE(run_uml_mkcow(directory_ / "theirs", backing_));
  create_cow(cow_, backing_, IfExists::refuse);
  EXPECT_TRUE(tests::read_file(cow_) == tests::read_file(directory_ / "theirs"));
}

INSTANTIATE_TEST_SUITE_P(Sizes, CreateAsUmlMkcow,
                         testing::Values(0, 1, 511, 512, 513, 4096, 1048576, 1048577, 3000001,
                                         16777216, 16777217, 100000000),
                         [](const auto& test) { return std::to_string(test.param); });

TEST_F(CreateCow, StoresPathsAsUmlMkcowDoes) {
  fs::create_directory(directory_ / "real");
  fs::create_directory_symlink("real", directory_ / "link");
  backing_ = directory_ / "real" / "file";
  make_backing(10000);
  fs::create_symlink("file", directory_ / "real" / "alias");
  const tests::WorkingDirectory here(directory_.path());
  int number = 0;
  for (const auto* name : {"real/file", "link/file", "real/alias", "link/../real/file",
                           "./real//file", "link/./alias"}) {
    const auto ours = "ours" + std::to_string(++number);
    const auto theirs = "theirs" + std::to_string(number);
    ASSERT_NO_FATAL_FAILURE(run_uml_mkcow(theirs, name));
    create_cow(ours, name, IfExists::refuse);
    EXPECT_TRUE(tests::read_file(ours) == tests::read_file(theirs)) << name;
  }
}

TEST_F(CreateCow, ShowsTheBackingAndCanBeWritten) {
  tests::TestRandom random;
  const auto content =
      tests::padded(tests::make_backing(*tests::make_file(backing_), 100001, random));
  create_cow(cow_, backing_, IfExists::refuse);
  auto opened = open_cow(cow_, std::nullopt, Access::read_write, std::nullopt);
  CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
  EXPECT_EQ(tests::difference(tests::read_all(image), content), "the same");
  image.write(5, random.bytes(5));
  image.flush();
}

TEST_F(CreateCow, OfAHugeBackingTakesNextToNoSpace) {
  make_backing(std::uint64_t{8} << 40);
  create_cow(cow_, backing_, IfExists::refuse);
  struct stat found {};
  ASSERT_EQ(::stat(cow_.c_str(), &found), 0);
  EXPECT_LE(found.st_blocks * 512, 65536);
}

TEST_F(CreateCow, RefusesAnExistingFileAndLeavesItAlone) {
  make_backing(10000);
  tests::write_file(cow_, "precious");
  EXPECT_THAT(refusal(), HasSubstr("exists"));
  EXPECT_EQ(tests::read_file(cow_).size(), 8U);
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing", "cow"));
  fs::remove(cow_);
  fs::create_symlink("nowhere", cow_);
  EXPECT_THAT(refusal(), HasSubstr("exists"));
}

TEST_F(CreateCow, ReplacesACowWithAnEmptyOne) {
  make_backing(10000);
  create_cow(cow_, backing_, IfExists::refuse);
  const auto empty = tests::read_file(cow_);
  {
    auto opened = open_cow(cow_, std::nullopt, Access::read_write, std::nullopt);
    CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
    image.write(0, std::vector(10000, std::byte{1}));
    image.flush();
  }
  create_cow(cow_, backing_, IfExists::replace);
  EXPECT_TRUE(tests::read_file(cow_) == empty) << "the old bitmap or data was kept";
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing", "cow"));
}

TEST_F(CreateCow, ReplacesAnEmptyFileAndMakesAMissingOne) {
  make_backing(10000);
  create_cow(cow_, backing_, IfExists::replace);
  const auto expected = tests::read_file(cow_);
  tests::write_file(cow_, "");
  create_cow(cow_, backing_, IfExists::replace);
  EXPECT_TRUE(tests::read_file(cow_) == expected);
}

TEST_F(CreateCow, NeverReplacesWhatIsNoCow) {
  make_backing(10000);
  for (const std::string content : {"x", "OO", "precious data that is no COW"}) {
    tests::write_file(cow_, content);
    EXPECT_THAT(refusal(IfExists::replace), HasSubstr("is not a COW"));
    EXPECT_EQ(tests::read_file(cow_).size(), content.size());
  }
  fs::remove(cow_);
  fs::create_directory(cow_);
  EXPECT_THAT(refusal(IfExists::replace), HasSubstr("is a directory"));
  fs::remove(cow_);
  ASSERT_EQ(::mkfifo(cow_.c_str(), 0600), 0);
  EXPECT_THAT(refusal(IfExists::replace), HasSubstr("is a FIFO"));
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing", "cow"));
}

TEST_F(CreateCow, NeverReplacesACowInUse) {
  make_backing(10000);
  create_cow(cow_, backing_, IfExists::refuse);
  const auto before = tests::read_file(cow_);
  const auto refused = [&] {
    return message_of<Busy>([&] { create_cow(cow_, backing_, IfExists::replace); });
  };
  {
    const auto opened = open_cow(cow_, std::nullopt, Access::read_only, std::nullopt);
    EXPECT_THAT(refused(), HasSubstr("in use"));
  }
  const tests::ForkedProcess uml([&] { return tests::take_process_lock(cow_.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THAT(refused(), HasSubstr("(pid " + std::to_string(uml.pid()) + ")"));
  EXPECT_TRUE(tests::read_file(cow_) == before);
}

TEST_F(CreateCow, ReplacesTheFileThatALinkLeadsTo) {
  make_backing(10000);
  create_cow(directory_ / "real", backing_, IfExists::refuse);
  fs::create_symlink("real", cow_);
  create_cow(cow_, backing_, IfExists::replace);
  EXPECT_TRUE(fs::is_symlink(cow_));
  EXPECT_NO_THROW((void)open_cow(cow_, std::nullopt, Access::read_write, std::nullopt));
}

TEST_F(CreateCow, IsNeverItsOwnBacking) {
  make_backing(10000);
  create_cow(cow_, backing_, IfExists::refuse);
  const auto before = tests::read_file(cow_);
  EXPECT_THAT(message_of<Error>([&] { create_cow(cow_, cow_, IfExists::replace); }),
              HasSubstr("is the backing itself"));
  EXPECT_TRUE(tests::read_file(cow_) == before);
}

TEST_F(CreateCow, AFailureLeavesNothingBehind) {
  EXPECT_THAT(
      message_of<BackingMismatch>([&] { create_cow(cow_, backing_, IfExists::refuse); }),
      HasSubstr(backing_.string() + ": there is no such backing; give an image that is there"));
  EXPECT_THAT(message_of<Error>([&] { create_cow(cow_, directory_.path(), IfExists::refuse); }),
              HasSubstr("is a directory"));
  EXPECT_THAT(names_in(directory_.path()), ElementsAre());
  make_backing(10000);
  EXPECT_THAT(message_of<Error>(
                  [&] { create_cow(directory_ / "missing" / "cow", backing_, IfExists::refuse); }),
              HasSubstr("there is no directory " + (directory_ / "missing").string() + "; make"));
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing"));
}

TEST_F(CreateCow, AFileThatWouldBeTooLargeLeavesNothingBehind) {
  make_backing(10000);
  const tests::ForkedProcess limited([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{9000, 9000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    return error_of([&] { create_cow(cow_, backing_, IfExists::refuse); }) == EFBIG;
  });
  EXPECT_TRUE(limited.succeeded());
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing"));
}

TEST_F(CreateCow, ADirectoryThatMayNotBeWrittenIsTold) {
  make_backing(10000);
  fs::create_directory(directory_ / "locked");
  ASSERT_EQ(::chmod((directory_ / "locked").c_str(), 0555), 0);
  const tests::WithoutFilePrivileges ordinary;
  EXPECT_EQ(
      error_of([&] { create_cow(directory_ / "locked" / "cow", backing_, IfExists::refuse); }),
      EACCES);
}

TEST_F(CreateCow, TheNameMayBeAsLongAsTheFileSystemTakes) {
  make_backing(10000);
  const auto cow = directory_ / std::string(255, 'n');
  create_cow(cow, backing_, IfExists::refuse);
  create_cow(cow, backing_, IfExists::replace);
  EXPECT_TRUE(fs::exists(cow));
}

TEST_F(CreateCow, OfManyAtOnceOneWins) {
  make_backing(10000);
  std::atomic<int> made = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      try {
        create_cow(cow_, backing_, IfExists::refuse);
        ++made;
      } catch (const std::exception&) {
        // One of the others was first: as an Error, or in the last moment as EEXIST.
      }
    });
  }
  threads.clear();
  EXPECT_EQ(made, 1);
  EXPECT_THAT(names_in(directory_.path()), ElementsAre("backing", "cow"));
}

}  // namespace
}  // namespace cowfs::core
