// What a user of an export does with files, and that it is what the host then has.

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <memory>
#include <set>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

/// By kernel passthrough, and by the daemon.
class ExportedFiles : public ExportTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ExportedFiles() : exported_(host(), mounted(), GetParam()) {}
  Exported exported_;
};

INSTANTIATE_TEST_SUITE_P(Data, ExportedFiles,
                         ::testing::Values("rw", "passthrough=off", "cache=never",
                                           "cache=never,passthrough=off", "cache=always",
                                           "metadata=xattr"));

TEST_P(ExportedFiles, WrittenThroughItAreOnTheHost) {
  put_content(mounted("file"), "content");
  EXPECT_EQ(content_of(host("file")), "content");
  EXPECT_EQ(content_of(mounted("file")), "content");
  fs::create_directories(mounted("a/b"));
  fs::rename(mounted("file"), mounted("a/b/moved"));
  EXPECT_EQ(content_of(host("a/b/moved")), "content");
  EXPECT_EQ(::truncate(mounted("a/b/moved").c_str(), 3), 0);
  EXPECT_EQ(content_of(mounted("a/b/moved")), "con");
  fs::remove_all(mounted("a"));
  EXPECT_TRUE(fs::is_empty(host()));
}

TEST_P(ExportedFiles, LinksAreLinks) {
  put_content(mounted("file"), "x");
  fs::create_hard_link(mounted("file"), mounted("other"));
  EXPECT_EQ(status_of(mounted("file")).st_ino, status_of(mounted("other")).st_ino);
  EXPECT_EQ(status_of(mounted("file")).st_nlink, 2U);
  fs::create_symlink("../somewhere/else", mounted("link"));
  EXPECT_EQ(fs::read_symlink(mounted("link")), "../somewhere/else");
  fs::create_hard_link(mounted("link"), mounted("link2"));
  EXPECT_EQ(fs::read_symlink(mounted("link2")), "../somewhere/else");
}

TEST_P(ExportedFiles, RenamesWithFlags) {
  put_content(mounted("one"), "1");
  put_content(mounted("two"), "2");
  const auto rename = [&](unsigned flags) {
    return error_of_call(
        ::renameat2(AT_FDCWD, mounted("one").c_str(), AT_FDCWD, mounted("two").c_str(), flags));
  };
  EXPECT_EQ(rename(RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(rename(RENAME_EXCHANGE), 0);
  EXPECT_EQ(content_of(host("one")), "2");
  EXPECT_EQ(rename(RENAME_WHITEOUT), EINVAL);
}

TEST_P(ExportedFiles, RemovedWhileOpenCanBeUsed) {
  const core::FileDescriptor file(
      ::open(mounted("file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  fs::remove(mounted("file"));
  const std::string text = "still there";
  EXPECT_EQ(write_at(file, 0, std::as_bytes(std::span(text))), text.size());
  EXPECT_EQ(read_at(file, 6, 100).size(), 5U);
  EXPECT_EQ(status_of(file).st_nlink, 0U);
  EXPECT_EQ(::fchmod(file.get(), 0640), 0);
  EXPECT_EQ(status_of(file).st_mode & 07777U, 0640U);
}

TEST_P(ExportedFiles, WithoutANameGetOneLater) {
  const core::FileDescriptor file(::open(mounted().c_str(), O_TMPFILE | O_RDWR, 0600));
  ASSERT_TRUE(file) << std::strerror(errno);
  const std::string text = "nameless";
  (void)write_at(file, 0, std::as_bytes(std::span(text)));
  EXPECT_TRUE(fs::is_empty(host()));
  const auto own = "/proc/self/fd/" + std::to_string(file.get());
  EXPECT_EQ(error_of_call(::linkat(AT_FDCWD, own.c_str(), AT_FDCWD, mounted("named").c_str(),
                                   AT_SYMLINK_FOLLOW)),
            0);
  EXPECT_EQ(content_of(host("named")), "nameless");
}

TEST_P(ExportedFiles, HaveHolesAndPlace) {
  const core::FileDescriptor file(::open(mounted("file").c_str(), O_RDWR | O_CREAT, 0600));
  const std::string text(4096, 'x');
  (void)write_at(file, 1 << 20, std::as_bytes(std::span(text)));
  EXPECT_EQ(seek(file, 0, SEEK_DATA), 1U << 20);
  EXPECT_EQ(seek(file, 1 << 20, SEEK_HOLE), (1U << 20) + 4096);
  allocate(file, FALLOC_FL_KEEP_SIZE, 0, 1 << 20);
  EXPECT_GE(status_of(file).st_blocks * 512, 1 << 20);
  const core::FileDescriptor copy(::open(mounted("copy").c_str(), O_RDWR | O_CREAT, 0600));
  off_t from = 1 << 20;
  EXPECT_EQ(::copy_file_range(file.get(), &from, copy.get(), nullptr, 4096, 0), 4096);
  EXPECT_EQ(content_of(host("copy")), text);
}

TEST_P(ExportedFiles, HaveTimesToTheNanosecondAndModes) {
  put_content(mounted("file"), "x");
  const std::array<timespec, 2> times{timespec{981173106, 123456789},
                                      timespec{981173107, 987654321}};
  ASSERT_EQ(::utimensat(AT_FDCWD, mounted("file").c_str(), times.data(), 0), 0);
  EXPECT_EQ(status_of(host("file")).st_mtim.tv_nsec, 987654321);
  EXPECT_EQ(status_of(mounted("file")).st_atim.tv_nsec, 123456789);
  ASSERT_EQ(::chmod(mounted("file").c_str(), 06711), 0);
  EXPECT_EQ(status_of(mounted("file")).st_mode & 07777U, 06711U);
  ASSERT_EQ(::chown(mounted("file").c_str(), 12, 34), 0);
  EXPECT_EQ(status_of(mounted("file")).st_uid, 12U);
  EXPECT_EQ(status_of(mounted("file")).st_gid, 34U);
  EXPECT_EQ(status_of(mounted("file")).st_mode & 07777U, 0711U);
}

TEST_P(ExportedFiles, AreMappedShared) {
  put_content(mounted("file"), std::string(10000, 'a'));
  const auto file = open_file(mounted("file"), O_RDWR);
  const MappedFile map(file, 10000, PROT_READ | PROT_WRITE, MAP_SHARED);
  map.bytes()[5000] = std::byte{'b'};
  map.sync();
  EXPECT_EQ(content_of(host("file"))[5000], 'b');
}

TEST_P(ExportedFiles, AreListedAllAndOnce) {
  std::set<std::string> names;
  for (int i = 0; i < 3000; ++i) {
    names.insert("a name of some length " + std::to_string(i));
    put_content(host(*names.rbegin()), "");
  }
  for (int i = 0; i < 3000; ++i)
    put_content(host("a name of some length " + std::to_string(i)), "");
  std::multiset<std::string> found;
  for (const auto& entry : fs::directory_iterator(mounted())) {
    found.insert(entry.path().filename().string());
    EXPECT_TRUE(fs::is_regular_file(entry.path()));
  }
  EXPECT_EQ(std::set(found.begin(), found.end()).size(), found.size());
  EXPECT_EQ(found.size(), 3000U);
}

TEST_P(ExportedFiles, AreAppendedToWhereTheyEnd) {
  put_content(mounted("file"), "one");
  const auto file = open_file(mounted("file"), O_WRONLY | O_APPEND);
  // The mount does not know of this yet, and must not write over it.
  {
    const auto on_host = open_file(host("file"), O_WRONLY | O_APPEND);
    ASSERT_EQ(::write(on_host.get(), "two", 3), 3);
  }
  ASSERT_EQ(::write(file.get(), "three", 5), 5);
  EXPECT_EQ(content_of(host("file")), "onetwothree");
}

using ExportedTree = ExportTest;

TEST_F(ExportedTree, ShowsWhatTheHostChangesAfterTheTimeout) {
  put_content(host("file"), "before");
  const Exported exported(host(), mounted(), "timeout=0.1");
  EXPECT_EQ(content_of(mounted("file")), "before");
  put_content(host("file"), "after, and longer");
  put_content(host("new"), "new");
  fs::remove(host("file"));
  fs::rename(host("new"), host("file"));
  EXPECT_TRUE(eventually([&] { return content_of(mounted("file")) == "new"; }));
}

TEST_F(ExportedTree, HasNoOtherAttributesThanItShows) {
  put_content(host("file"), "x");
  ASSERT_EQ(::setxattr(host("file").c_str(), "user.seen", "1", 1, 0), 0);
  ASSERT_EQ(::setxattr(host("file").c_str(), "user.cowfs.metadata", "1", 1, 0), 0);
  ASSERT_EQ(::setxattr(host("file").c_str(), "trusted.secret", "1", 1, 0), 0);
  const Exported exported(host(), mounted());
  const auto file = mounted("file");
  std::array<char, 256> list{};
  const auto length = ::listxattr(file.c_str(), list.data(), list.size());
  EXPECT_EQ(std::string(list.data(), static_cast<std::size_t>(length)),
            std::string("user.seen\0", 10));
  for (const auto* name : {"user.cowfs.metadata", "trusted.secret", "system.posix_acl_access"}) {
    EXPECT_NE(error_of_call(::getxattr(file.c_str(), name, list.data(), list.size())), 0) << name;
    EXPECT_NE(error_of_call(::setxattr(file.c_str(), name, "2", 1, 0)), 0) << name;
    EXPECT_NE(error_of_call(::removexattr(file.c_str(), name)), 0) << name;
  }
  EXPECT_EQ(::getxattr(host("file").c_str(), "trusted.secret", list.data(), list.size()), 1);
}

TEST_F(ExportTest, AListingEndsWhenItsDirectoryIsRemovedOnTheHost) {
  fs::create_directory(host("directory"));
  const Exported exported(host(), mounted(), "cache=never");
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(mounted("directory").c_str()),
                                                    &::closedir);
  ASSERT_NE(listing, nullptr);
  ASSERT_NE(::readdir(listing.get()), nullptr);
  ASSERT_NE(::readdir(listing.get()), nullptr);
  ASSERT_EQ(::rmdir(host("directory").c_str()), 0);
  errno = 0;
  EXPECT_EQ(::readdir(listing.get()), nullptr);
  EXPECT_EQ(errno, 0);
}

}  // namespace
}  // namespace cowfs::tests
