// Files of the operating system behind the storage seam.

#include "cowcore/posix_storage.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/errors.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

using testing::HasSubstr;
using tests::error_of;
using tests::message_of;
using Bytes = std::vector<std::byte>;

class PosixStorageTest : public testing::Test {
 protected:
  std::unique_ptr<PosixStorage> open(const std::string& name, Access access = Access::read_write,
                                     FileKinds kinds = FileKinds::regular) {
    return PosixStorage::open(directory_ / name, access, kinds);
  }

  tests::TemporaryDirectory directory_;
};

TEST_F(PosixStorageTest, RefusesWhatIsNoFileWithoutTouchingIt) {
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  boost::filesystem::create_directory(directory_ / "directory");
  const FileDescriptor server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // The name of a socket is short: bound through the descriptor of its directory.
  const FileDescriptor handle(::open(directory_.path().c_str(), O_PATH | O_CLOEXEC));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto name = "/proc/self/fd/" + std::to_string(handle.get()) + "/socket";
  std::memcpy(address.sun_path, name.c_str(), name.size());
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);

  for (const auto kinds : {FileKinds::regular, FileKinds::regular_or_block}) {
    for (const auto access : {Access::read_only, Access::read_write}) {
      const auto refusal = [&](const boost::filesystem::path& path) {
        return message_of<Error>([&] { (void)PosixStorage::open(path, access, kinds); });
      };
      // Opening a FIFO would wait for its other end.
      EXPECT_THAT(refusal(directory_ / "fifo"), HasSubstr("is a FIFO"));
      EXPECT_THAT(refusal(directory_ / "directory"), HasSubstr("is a directory"));
      EXPECT_THAT(refusal(directory_ / "socket"), HasSubstr("is a socket"));
      EXPECT_THAT(refusal("/dev/null"), HasSubstr("is a character device"));
    }
  }
}

TEST_F(PosixStorageTest, FollowsSymbolicLinksToFiles) {
  tests::write_file(directory_ / "file", "content");
  boost::filesystem::create_symlink("file", directory_ / "link");
  EXPECT_EQ(open("link")->status().size, 7U);
}

TEST_F(PosixStorageTest, NamesTheFileThatIsNotThere) {
  EXPECT_EQ(error_of([&] { (void)open("missing"); }), ENOENT);
  EXPECT_THAT(message_of<std::system_error>([&] { (void)open("missing"); }),
              HasSubstr((directory_ / "missing").string()));
  boost::filesystem::create_symlink("nowhere", directory_ / "link");
  EXPECT_EQ(error_of([&] { (void)open("link"); }), ENOENT);
}

TEST_F(PosixStorageTest, ReadsFallShortOnlyAtTheEnd) {
  tests::write_file(directory_ / "file", "0123456789");
  const auto file = open("file", Access::read_only);
  Bytes bytes(8);
  EXPECT_EQ(file->read(0, bytes), 8U);
  EXPECT_EQ(file->read(5, bytes), 5U);
  EXPECT_EQ(file->read(10, bytes), 0U);
  EXPECT_EQ(file->read(1000, bytes), 0U);
  EXPECT_EQ(file->read(0, {}), 0U);
}

TEST_F(PosixStorageTest, AReadOnlyOneDoesNotWrite) {
  tests::write_file(directory_ / "file", "0123456789");
  const auto file = open("file", Access::read_only);
  EXPECT_EQ(error_of([&] { file->write(0, Bytes(1)); }), EBADF);
  EXPECT_NE(error_of([&] { file->resize(0); }), 0);
  EXPECT_NE(error_of([&] { file->punch(0, 1); }), 0);
  EXPECT_EQ(file->status().size, 10U);
}

TEST_F(PosixStorageTest, PunchingMakesZerosAndAHoleAndKeepsTheSize) {
  const auto file = tests::make_file(directory_ / "file");
  file->write(0, Bytes(65536, std::byte{1}));
  file->sync();
  const auto full = file->status().allocated;
  file->punch(4096 + 100, 32768);
  file->punch(65000, 100000);
  file->punch(200000, 5);
  file->punch(0, 0);
  EXPECT_EQ(file->status().size, 65536U);
  EXPECT_LT(file->status().allocated, full);
  Bytes bytes(65536);
  file->read(0, bytes);
  Bytes expected(65536, std::byte{1});
  std::fill(expected.begin() + 4196, expected.begin() + 4196 + 32768, std::byte{});
  std::fill(expected.begin() + 65000, expected.end(), std::byte{});
  EXPECT_EQ(bytes, expected);
  EXPECT_EQ(file->next_hole(0), 8192U);
  EXPECT_EQ(file->next_data(8192), 36864U);
}

TEST_F(PosixStorageTest, DataAndHolesAtAndPastTheEnd) {
  const auto file = tests::make_file(directory_ / "file");
  EXPECT_EQ(file->next_data(0), std::nullopt);
  EXPECT_EQ(file->next_hole(0), 0U);
  file->write(0, Bytes(100));
  EXPECT_EQ(file->next_data(50), 50U);
  EXPECT_EQ(file->next_hole(50), 100U) << "the end counts as a hole";
  EXPECT_EQ(file->next_data(100), std::nullopt);
  EXPECT_EQ(file->next_hole(100), 100U);
  EXPECT_EQ(file->next_hole(5000), 5000U);
}

TEST_F(PosixStorageTest, ReservedSpaceCostsRoomButNotSizeAndReadsAsZeros) {
  const auto file = tests::make_file(directory_ / "file");
  file->resize(10000);
  file->reserve(0, 1 << 20);
  EXPECT_EQ(file->status().size, 10000U);
  EXPECT_GE(file->status().allocated, 1U << 20);
  EXPECT_EQ(file->next_data(0), std::nullopt) << "nothing was written yet";
}

TEST_F(PosixStorageTest, OffsetsMayBeLarge) {
  const auto file = tests::make_file(directory_ / "file");
  constexpr auto far = (std::uint64_t{1} << 42) + 1;
  file->write(far, Bytes(3, std::byte{1}));
  EXPECT_EQ(file->status().size, far + 3);
  EXPECT_LE(file->status().allocated, 65536U);
  EXPECT_EQ(file->next_data(0), far / 4096 * 4096);
  Bytes bytes(10);
  EXPECT_EQ(file->read(far, bytes), 3U);
}

TEST_F(PosixStorageTest, StatusTellsWhatTheSystemKnows) {
  tests::write_file(directory_ / "file", "content");
  tests::set_mtime(directory_ / "file", 1234567890);
  ASSERT_EQ(::chmod((directory_ / "file").c_str(), 0640), 0);
  ASSERT_EQ(::link((directory_ / "file").c_str(), (directory_ / "again").c_str()), 0);
  tests::write_file(directory_ / "other", "content");
  const auto status = open("file")->status();
  EXPECT_EQ(status.size, 7U);
  EXPECT_EQ(status.modified.tv_sec, 1234567890);
  EXPECT_EQ(status.mode, S_IFREG | 0640U);
  EXPECT_EQ(status.owner, ::getuid());
  EXPECT_EQ(status.identity, open("again")->status().identity);
  EXPECT_FALSE(status.identity == open("other")->status().identity);
  const auto space = open("file")->space();
  EXPECT_GT(space.total, 0U);
  EXPECT_LE(space.available, space.free);
  EXPECT_LE(space.free, space.total);
}

TEST_F(PosixStorageTest, AMappingMayReachPastTheEnd) {
  const auto file = tests::make_file(directory_ / "file");
  file->write(0, Bytes(100, std::byte{5}));
  const auto mapping = file->map(0, 1 << 20);
  ASSERT_TRUE(mapping);
  EXPECT_EQ(mapping->length(), 1U << 20);
  EXPECT_EQ(mapping->data()[99], std::byte{5});
  file->write(5000, Bytes(10, std::byte{6}));
  EXPECT_EQ(mapping->data()[5009], std::byte{6}) << "it shows what the file has grown by";
}

TEST_F(PosixStorageTest, AWriteWhereNoFileReachesIsAnError) {
  const auto file = tests::make_file(directory_ / "file");
  EXPECT_EQ(error_of([&] { file->write(std::uint64_t{1} << 63, Bytes(1)); }), EINVAL);
}

TEST_F(PosixStorageTest, AWriteThatIsCutShortGoesOnUntilItsError) {
  // The kernel writes up to the limit and returns how much that was; only the next call fails.
  const tests::ForkedProcess limited([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10000, 10000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
    const auto file = tests::make_file(directory_ / "file");
    const int error = error_of([&] { file->write(0, Bytes(20000, std::byte{1})); });
    return error == EFBIG && file->status().size == 10000;
  });
  EXPECT_TRUE(limited.succeeded());
}

}  // namespace
}  // namespace cowfs::core
