// Who may do what through an export, and whose files come of it.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using ::testing::HasSubstr;

constexpr uid_t alice = 12345;
constexpr uid_t bob = 12346;
constexpr uid_t nobody = 65534;

class ExportAccess : public ExportTest {
 protected:
  ExportAccess() { open_to_all(host()); }

  static void open_to_all(const fs::path& path) { EXPECT_EQ(::chmod(path.c_str(), 0777), 0); }
  [[nodiscard]] long make(const std::string& name, mode_t mode = 0644) const {
    const int file = ::open(mounted(name).c_str(), O_WRONLY | O_CREAT | O_EXCL, mode);
    return file < 0 ? -1 : ::close(file);
  }
  [[nodiscard]] long append(const std::string& name) const {
    const int file = ::open(mounted(name).c_str(), O_WRONLY | O_APPEND);
    if (file < 0) return -1;
    const auto written = ::write(file, "x", 1);
    return ::close(file) == 0 ? written : -1;
  }
};

TEST_F(ExportAccess, IsRootsAloneUnlessOthersAreLetIn) {
  const Exported exported(host(), mounted());
  EXPECT_EQ(error_as(alice, [&] { return make("file"); }), EACCES);
  EXPECT_EQ(error_as(0, [&] { return make("file"); }), 0);
}

TEST_F(ExportAccess, ReadOnlyChangesNothing) {
  put_content(host("file"), "x");
  const Exported exported(host(), mounted(), "ro");
  EXPECT_EQ(content_of(mounted("file")), "x");
  EXPECT_EQ(error_of_call(make("new")), EROFS);
  EXPECT_EQ(error_of_call(append("file")), EROFS);
  EXPECT_EQ(error_of_call(::unlink(mounted("file").c_str())), EROFS);
  EXPECT_EQ(error_of_call(::chmod(mounted("file").c_str(), 0)), EROFS);
}

TEST_F(ExportAccess, FilesBelongToWhoeverMakesThem) {
  const Exported exported(host(), mounted(), "allow_other");
  EXPECT_EQ(error_as(alice, [&] { return make("file", 0666); }), 0);
  EXPECT_EQ(error_as(alice, [&] { return ::mkdir(mounted("dir").c_str(), 0700); }), 0);
  EXPECT_EQ(error_as(alice, [&] { return ::symlink("x", mounted("link").c_str()); }), 0);
  EXPECT_EQ(error_as(alice, [&] { return ::mkfifo(mounted("fifo").c_str(), 0600); }), 0);
  for (const auto* name : {"file", "dir", "fifo"}) {
    EXPECT_EQ(status_of(host(name)).st_uid, alice) << name;
    EXPECT_EQ(status_of(host(name)).st_gid, alice) << name;
  }
  EXPECT_EQ(error_as(bob, [&] { return ::open(mounted("dir/x").c_str(), O_CREAT, 0600); }), EACCES);
  EXPECT_EQ(error_as(bob, [&] { return ::chmod(mounted("file").c_str(), 0600); }), EPERM);
  EXPECT_EQ(error_as(bob, [&] { return append("file"); }), 0);
}

TEST_F(ExportAccess, TheUmaskAndDirectoriesOfAGroupCount) {
  ASSERT_EQ(::mkdir(host("shared").c_str(), 0), 0);
  ASSERT_EQ(::chown(host("shared").c_str(), 0, bob), 0);
  ASSERT_EQ(::chmod(host("shared").c_str(), 02770), 0);
  const Exported exported(host(), mounted(), "allow_other");
  EXPECT_EQ(error_as(alice, [&] { return make("shared/file"); }), EACCES);
  EXPECT_EQ(error_as(alice,
                     [&] {
                       ::umask(027);
                       return make("shared/file", 0666);
                     },
                     {bob}),
            0);
  EXPECT_EQ(error_as(alice, [&] { return ::mkdir(mounted("shared/d").c_str(), 0700); }, {bob}), 0);
  EXPECT_EQ(status_of(host("shared/file")).st_uid, alice);
  EXPECT_EQ(status_of(host("shared/file")).st_gid, bob);
  EXPECT_EQ(status_of(host("shared/file")).st_mode & 07777U, 0640U);
  EXPECT_EQ(status_of(host("shared/d")).st_mode & 07777U, 02700U);
  EXPECT_EQ(status_of(host("shared/d")).st_gid, bob);
}

TEST_F(ExportAccess, StickyDirectoriesProtectOthersFiles) {
  ASSERT_EQ(::chmod(host().c_str(), 01777), 0);
  const Exported exported(host(), mounted(), "allow_other");
  EXPECT_EQ(error_as(alice, [&] { return make("file", 0666); }), 0);
  EXPECT_EQ(error_as(bob, [&] { return ::unlink(mounted("file").c_str()); }), EPERM);
  EXPECT_EQ(error_as(alice, [&] { return ::unlink(mounted("file").c_str()); }), 0);
}

class SetIds : public ExportAccess, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Data, SetIds,
                         ::testing::Values("allow_other", "allow_other,passthrough=off",
                                           "allow_other,metadata=xattr"));

TEST_P(SetIds, GoWhenAnOrdinaryUserWritesAndStayWhenRootDoes) {
  const Exported exported(host(), mounted(), GetParam());
  using Call = std::function<long(const std::string& name)>;
  int count = 0;
  // Each with a file of its own: the kernel tells of a close only later.
  const auto mode_after = [&](uid_t user, const Call& call) {
    const auto name = std::to_string(count++);
    EXPECT_EQ(error_of_call(::mknod(mounted(name).c_str(), S_IFREG | 0777, 0)), 0);
    EXPECT_EQ(::chmod(mounted(name).c_str(), 06777), 0);
    EXPECT_EQ(error_as(user, [&] { return call(name); }), 0);
    return status_of(mounted(name)).st_mode & 07777U;
  };
  const auto write = [&](const std::string& name) { return append(name); };
  const auto truncate = [&](const std::string& name) {
    return ::truncate(mounted(name).c_str(), 1);
  };
  const auto open_truncating = [&](const std::string& name) {
    return ::open(mounted(name).c_str(), O_WRONLY | O_TRUNC);
  };
  EXPECT_EQ(mode_after(alice, write), 0777U);
  EXPECT_EQ(mode_after(alice, truncate), 0777U);
  EXPECT_EQ(mode_after(alice, open_truncating), 0777U);
  EXPECT_EQ(mode_after(0, write), 06777U);
  EXPECT_EQ(mode_after(0, truncate), 06777U);
  EXPECT_EQ(
      mode_after(
          0, [&](const std::string& name) { return ::chown(mounted(name).c_str(), alice, alice); }),
      0777U);
}

TEST_F(ExportAccess, AsAUserItHasThatUsersRights) {
  put_content(host("roots"), "secret");
  ASSERT_EQ(::chmod(host("roots").c_str(), 0600), 0);
  const Exported exported(host(), mounted(), "as=12345:12345");
  EXPECT_EQ(error_of_call(::open(mounted("roots").c_str(), O_RDONLY)), EACCES);
  EXPECT_EQ(error_of_call(make("file")), 0);
  EXPECT_EQ(status_of(host("file")).st_uid, alice);
  EXPECT_EQ(status_of(host("file")).st_gid, alice);
  EXPECT_EQ(error_of_call(::chown(mounted("file").c_str(), bob, bob)), EPERM);
}

TEST_F(ExportAccess, MapsShowAndSetUsersByRanges) {
  put_content(host("file"), "x");
  ASSERT_EQ(::chown(host("file").c_str(), 100005, 100006), 0);
  put_content(host("foreign"), "x");
  const Exported exported(host(), mounted(), "allow_other,map=b:0:100000:1000");
  EXPECT_EQ(status_of(mounted("file")).st_uid, 5U);
  EXPECT_EQ(status_of(mounted("file")).st_gid, 6U);
  EXPECT_EQ(status_of(mounted("foreign")).st_uid, nobody);
  EXPECT_EQ(error_of_call(::chown(mounted("file").c_str(), 7, 8)), 0);
  EXPECT_EQ(status_of(host("file")).st_uid, 100007U);
  EXPECT_EQ(error_of_call(::chown(mounted("file").c_str(), 1000, 8)), EINVAL);
  EXPECT_EQ(error_as(0, [&] { return make("made"); }), 0);
  EXPECT_EQ(status_of(host("made")).st_uid, 100000U);
  EXPECT_EQ(error_as(alice, [&] { return make("not made"); }), EOVERFLOW);
}

TEST_F(ExportAccess, SquashedRootHasTheRightsOfNobody) {
  ASSERT_EQ(::mkdir(host("roots").c_str(), 0755), 0);
  put_content(host("roots/secret"), "x");
  ASSERT_EQ(::chmod(host("roots/secret").c_str(), 0600), 0);
  const Exported exported(host(), mounted(), "allow_other,squash");
  EXPECT_EQ(error_of_call(make("file")), 0);
  EXPECT_EQ(status_of(host("file")).st_uid, nobody);
  EXPECT_EQ(error_of_call(make("roots/file")), EACCES);
  EXPECT_EQ(error_of_call(::open(mounted("roots/secret").c_str(), O_RDONLY)), EACCES);
  EXPECT_EQ(error_of_call(::chmod(mounted("roots/secret").c_str(), 0777)), EPERM);
  EXPECT_EQ(error_as(alice, [&] { return make("hers"); }), 0);
  EXPECT_EQ(status_of(host("hers")).st_uid, alice);
}

TEST_F(ExportAccess, SquashedAllAreOneUser) {
  const Exported exported(host(), mounted(), "allow_other,squash=all,anon=12346");
  EXPECT_EQ(error_as(alice, [&] { return make("file"); }), 0);
  EXPECT_EQ(status_of(host("file")).st_uid, bob);
}

TEST_F(ExportAccess, MetadataInAttributesNeedsNoRootOnTheHost) {
  ASSERT_EQ(::chown(host().c_str(), alice, alice), 0);
  const Exported exported(host(), mounted(), "as=12345:12345,metadata=xattr");
  ASSERT_EQ(error_of_call(make("file")), 0);
  EXPECT_EQ(error_of_call(::chown(mounted("file").c_str(), 1, 2)), 0);
  EXPECT_EQ(error_of_call(::chmod(mounted("file").c_str(), 04755)), 0);
  EXPECT_EQ(error_of_call(::mknod(mounted("null").c_str(), S_IFCHR | 0666, makedev(1, 3))), 0);
  EXPECT_EQ(error_of_call(::symlink("/etc/passwd", mounted("link").c_str())), 0);
  EXPECT_EQ(error_of_call(::lchown(mounted("link").c_str(), 3, 4)), 0);
  const auto file = status_of(mounted("file"));
  EXPECT_EQ(file.st_uid, 1U);
  EXPECT_EQ(file.st_gid, 2U);
  EXPECT_EQ(file.st_mode, S_IFREG | 04755U);
  const auto null = status_of(mounted("null"));
  EXPECT_EQ(null.st_mode, S_IFCHR | 0644U);  // by the umask
  EXPECT_EQ(null.st_rdev, makedev(1, 3));
  struct stat link {};
  ASSERT_EQ(::lstat(mounted("link").c_str(), &link), 0);
  EXPECT_EQ(link.st_uid, 3U);
  EXPECT_EQ(fs::read_symlink(mounted("link")), "/etc/passwd");
  for (const auto* name : {"file", "null", "link"}) {
    struct stat on_host {};
    ASSERT_EQ(::lstat(host(name).c_str(), &on_host), 0);
    EXPECT_EQ(on_host.st_mode, S_IFREG | 0600U) << name;
    EXPECT_EQ(on_host.st_uid, alice) << name;
  }
}

TEST_F(ExportAccess, DevicesAreMadeOnlyWhenAsked) {
  const auto make_device = [&] {
    return error_of_call(::mknod(mounted("null").c_str(), S_IFCHR | 0666, makedev(1, 3)));
  };
  {
    const Exported exported(host(), mounted());
    EXPECT_EQ(make_device(), EPERM);
  }
  const Exported exported(host(), mounted(), "devices=yes");
  EXPECT_EQ(make_device(), 0);
  EXPECT_EQ(status_of(host("null")).st_rdev, makedev(1, 3));
  EXPECT_EQ(error_of_call(::open(mounted("null").c_str(), O_RDONLY)), EACCES);
}

TEST_F(ExportAccess, AclsAreHonouredWhenAsked) {
  put_content(host("file"), "x");
  ASSERT_EQ(::chmod(host("file").c_str(), 0600), 0);
  ASSERT_EQ(run({.command = {"setfacl", "-m", "u:12345:r", host("file").string()}}).status, 0);
  const auto read = [&] { return ::open(mounted("file").c_str(), O_RDONLY); };
  const Exported exported(host(), mounted(), "allow_other,xattrs=acl");
  EXPECT_EQ(error_as(alice, read), 0);
  EXPECT_EQ(error_as(bob, read), EACCES);
  EXPECT_EQ(run({.command = {"setfacl", "-m", "u:12346:r", mounted("file").string()}}).status, 0);
  EXPECT_EQ(error_as(bob, read), 0);
}

}  // namespace
}  // namespace cowfs::tests
