// Attacks on an export that go by names, kinds of files, modes and attributes.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/prey.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uid_t alice = 12345;
constexpr gid_t club = 12399;

using ExportRights = ExportTest;

// --- names ---

/// Every call that takes a name, with `name` in the mount's root. Returns the errnos.
std::vector<int> errors_of_calls_on(const std::string& name, const fs::path& point) {
  const auto root = open_file(point, O_RDONLY | O_DIRECTORY);
  const int at = root.get();
  const char* n = name.c_str();
  struct stat status {};
  return {error_of_call(::fstatat(at, n, &status, AT_SYMLINK_NOFOLLOW)),
          error_of_call(::openat(at, n, O_CREAT | O_EXCL | O_RDWR, 0600)),
          error_of_call(::openat(at, n, O_RDWR)),
          error_of_call(::mkdirat(at, n, 0700)),
          error_of_call(::mknodat(at, n, S_IFREG | 0600, 0)),
          error_of_call(::mkfifoat(at, n, 0600)),
          error_of_call(::symlinkat("x", at, n)),
          error_of_call(::linkat(at, "file", at, n, 0)),
          error_of_call(::linkat(at, n, at, "other", 0)),
          error_of_call(::renameat2(at, "file", at, n, RENAME_NOREPLACE)),
          error_of_call(::renameat2(at, n, at, "other", 0)),
          error_of_call(::renameat2(at, n, at, "file", RENAME_EXCHANGE)),
          error_of_call(::unlinkat(at, n, 0)),
          error_of_call(::unlinkat(at, n, AT_REMOVEDIR))};
}

class ExportNames : public ExportTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Options, ExportNames,
                         ::testing::Values("", "metadata=xattr", "symlinks=inside"));

TEST_P(ExportNames, ThatAreNoneFailInEveryCallAsOnTheHost) {
  for (const auto* directory : {"host", "beside"}) {
    fs::create_directories(outside(directory));
    put_content(outside(directory) / "file", "x");
  }
  const Exported exported(host(), mounted(), GetParam());
  const std::string too_long(256, 'n');
  for (const auto& name : {too_long, std::string(), std::string("."), too_long + "/x",
                           "file/" + too_long, std::string("file/"), std::string("file/..")}) {
    EXPECT_EQ(errors_of_calls_on(name, mounted()), errors_of_calls_on(name, outside("beside")))
        << name;
  }
  // The root's ".." is the mount point's own, which has nothing to do with the export's.
  EXPECT_EQ(status_of(mounted("..")).st_ino, status_of(outside()).st_ino);
  EXPECT_EQ(content_of(host("file")), "x");
}

TEST_P(ExportNames, OfFullLengthAndOfAnyBytesAreNames) {
  const Exported exported(host(), mounted(), GetParam());
  for (const auto& name : {std::string(255, 'n'), std::string("..."), std::string("\xff\x01\n\\"),
                           std::string("-rf *"), std::string(" "), std::string("%s%n")}) {
    put_content(mounted(name), name);
    EXPECT_EQ(content_of(host(name)), name);
    EXPECT_EQ(::unlink(mounted(name).c_str()), 0);
  }
}

// --- what is no file ---

TEST_F(ExportRights, SocketsFifosAndDevicesOfTheHostAreNotReached) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const core::FileDescriptor listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto above = open_file(host(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::fchdir(above.get()), 0);  // a socket's name is short
  std::strcpy(address.sun_path, "socket");
  ASSERT_EQ(::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listening.get(), 1), 0);
  ASSERT_EQ(::mkfifo("fifo", 0666), 0);
  ASSERT_EQ(::mknod("block", S_IFBLK | 0666, makedev(7, 0)), 0);
  ASSERT_EQ(::mknod("char", S_IFCHR | 0666, makedev(1, 5)), 0);
  ASSERT_EQ(::chdir("/"), 0);
  const Exported exported(host(), mounted());
  for (const auto& [name, error] :
       {std::pair{"socket", ENXIO}, {"block", EACCES}, {"char", EACCES}}) {
    for (const int flags : {O_RDONLY, O_RDWR, O_WRONLY | O_TRUNC, O_RDONLY | O_CREAT}) {
      EXPECT_EQ(error_of_call(::open(mounted(name).c_str(), flags, 0600)), error) << name;
    }
  }
  // A reader of the host's FIFO is not met by a writer of the mount's.
  const auto reader = open_file(host("fifo"), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(error_of_call(::open(mounted("fifo").c_str(), O_WRONLY | O_NONBLOCK)), ENXIO);
  EXPECT_EQ(error_of_call(::truncate(mounted("fifo").c_str(), 0)), EINVAL);
  EXPECT_EQ(error_of_call(::truncate(mounted("block").c_str(), 0)), EINVAL);
  EXPECT_NE(error_of_call(::setxattr(mounted("fifo").c_str(), "user.a", "x", 1, 0)), 0);
  EXPECT_EQ(error_of_call(::chmod(mounted("fifo").c_str(), 0600)), 0);
  EXPECT_EQ(status_of(host("fifo")).st_mode & 07777U, 0600U);
}

TEST_F(ExportRights, DevicesAreNotMadeAndFifosAre) {
  const Exported exported(host(), mounted(), "allow_other");
  for (const mode_t kind : {S_IFCHR, S_IFBLK}) {
    EXPECT_EQ(error_of_call(::mknod(mounted("device").c_str(), kind | 0666, makedev(8, 0))), EPERM);
  }
  EXPECT_EQ(error_of_call(::mknod(mounted("socket").c_str(), S_IFSOCK | 0666, 0)), 0);
  EXPECT_EQ(error_of_call(::mknod(mounted("fifo").c_str(), S_IFIFO | 0666, 0)), 0);
  EXPECT_FALSE(fs::exists(host("device")));
}

// --- set-IDs and capabilities ---

/// As setcap writes it: cap_net_raw, effective and permitted.
constexpr std::array<unsigned char, 20> raw_capability{0x01, 0x00, 0x00, 0x02, 0x00, 0x20};

bool has_capability(const fs::path& file) {
  return ::getxattr(file.c_str(), "security.capability", nullptr, 0) > 0;
}

class Privileges : public ExportTest, public ::testing::WithParamInterface<const char*> {
 protected:
  Privileges() { EXPECT_EQ(::chmod(host().c_str(), 0777), 0); }

  /// A file on the host that everybody may write, with set-IDs and a capability.
  [[nodiscard]] fs::path privileged_file() {
    const auto name = std::to_string(count_++);
    put_content(host(name), std::string(8192, 'x'));
    EXPECT_EQ(::chmod(host(name).c_str(), 06777), 0);
    EXPECT_EQ(::setxattr(host(name).c_str(), "security.capability", raw_capability.data(),
                         raw_capability.size(), 0),
              0);
    return name;
  }

 private:
  int count_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Data, Privileges,
                         ::testing::Values("allow_other", "allow_other,passthrough=off",
                                           "allow_other,cache=never", "allow_other,squash=all"));

TEST_P(Privileges, GoWithEveryWayOfWriting) {
  put_content(host("source"), std::string(8192, 's'));
  const Exported exported(host(), mounted(), GetParam());
  const auto writing = [](const fs::path& file, const std::function<long(int)>& call) {
    const int opened = ::open(file.c_str(), O_RDWR);
    return opened < 0 ? -1 : call(opened);
  };
  const std::vector<std::pair<const char*, std::function<long(const fs::path&)>>> ways{
      {"write", [&](auto& f) { return writing(f, [](int o) { return ::write(o, "x", 1); }); }},
      {"truncate", [](auto& f) { return ::truncate(f.c_str(), 1); }},
      {"ftruncate", [&](auto& f) { return writing(f, [](int o) { return ::ftruncate(o, 1); }); }},
      {"O_TRUNC", [](auto& f) { return ::open(f.c_str(), O_WRONLY | O_TRUNC); }},
      {"fallocate",
       [&](auto& f) { return writing(f, [](int o) { return ::fallocate(o, 0, 0, 65536); }); }},
      {"copy_file_range", [&](auto& f) {
         return writing(f, [&](int o) {
           const int from = ::open(mounted("source").c_str(), O_RDONLY);
           return ::copy_file_range(from, nullptr, o, nullptr, 4096, 0);
         });
       }}};
  for (const auto& [way, call] : ways) {
    const auto name = privileged_file();
    ASSERT_EQ(error_as(alice, [&, &call = call] { return call(mounted(name.string())); }), 0)
        << way;
    EXPECT_EQ(status_of(host(name.string())).st_mode & 07777U, 0777U) << way;
    EXPECT_FALSE(has_capability(host(name.string()))) << way;
  }
}

TEST_P(Privileges, GoWithANewOwner) {
  const Exported exported(host(), mounted(), GetParam());
  const auto name = privileged_file().string();
  const bool is_nobody = std::string(GetParam()).find("squash") != std::string::npos;
  ASSERT_EQ(error_of_call(::chown(mounted(name).c_str(), alice, alice)), is_nobody ? EPERM : 0);
  if (is_nobody) return;
  EXPECT_EQ(status_of(host(name)).st_mode & 07777U, 0777U);
  EXPECT_FALSE(has_capability(host(name)));
}

TEST_P(Privileges, ACapabilityGoesWhenRootWritesToo) {
  const Exported exported(host(), mounted(), GetParam());
  const auto name = privileged_file().string();
  const auto file = open_file(mounted(name), O_RDWR);
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 0), 1);
  EXPECT_FALSE(has_capability(host(name)));
}

TEST_F(ExportRights, SetGroupIdIsNotHadByWhoIsNotInTheGroup) {
  ASSERT_EQ(::mkdir(host("shared").c_str(), 0777), 0);
  ASSERT_EQ(::chown(host("shared").c_str(), 0, club), 0);
  ASSERT_EQ(::chmod(host("shared").c_str(), 02777), 0);
  const Exported exported(host(), mounted(), "allow_other");
  const auto make = [&](const std::string& name) {
    return ::mknod(mounted("shared/" + name).c_str(), S_IFREG | 02775, 0);
  };
  ASSERT_EQ(error_as(alice, [&] { return make("file"); }), 0);
  ASSERT_EQ(error_as(alice, [&] { return make("members"); }, {club}), 0);
  EXPECT_EQ(status_of(host("shared/file")).st_gid, club);
  EXPECT_EQ(status_of(host("shared/file")).st_mode & 07777U, 0775U);
  EXPECT_EQ(status_of(host("shared/members")).st_mode & 07777U, 02775U);
  const auto set = [&] { return ::chmod(mounted("shared/file").c_str(), 02775); };
  ASSERT_EQ(error_as(alice, set), 0);
  EXPECT_EQ(status_of(host("shared/file")).st_mode & 07777U, 0775U);
  ASSERT_EQ(error_as(alice, set, {club}), 0);
  EXPECT_EQ(status_of(host("shared/file")).st_mode & 07777U, 02775U);
}

TEST_F(ExportRights, TheMountHasNoSetIdsAndNoDevices) {
  fs::copy_file("/bin/true", host("true"));
  ASSERT_EQ(::chmod(host("true").c_str(), 06755), 0);
  const Exported exported(host(), mounted(), "allow_other");
  fs::copy_file("/usr/bin/id", host("id"));
  ASSERT_EQ(::chmod(host("id").c_str(), 06755), 0);
  const auto done = run({.command = {mounted("id").string(), "-u"}, .user = alice});
  EXPECT_EQ(done.out, std::to_string(alice) + "\n") << done.err;
}

// --- attributes ---

class Attributes : public ExportTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Options, Attributes,
                         ::testing::Values("", "metadata=xattr", "xattrs=acl", "xattrs=none"));

TEST_P(Attributes, BeyondTheUsersAreOutOfReach) {
  put_content(host("file"), "x");
  for (const auto* name : {"trusted.a", "security.a", "user.cowfs.metadata", "user.cowfs.a"}) {
    ASSERT_EQ(::setxattr(host("file").c_str(), name, "x", 1, 0), 0) << name;
  }
  const Exported exported(host(), mounted(), GetParam());
  const auto file = mounted("file");
  for (const auto* name :
       {"trusted.a", "security.a", "security.capability", "user.cowfs.metadata", "user.cowfs.a",
        "user.cowfs.", "system.nfs4_acl", "trusted.overlay.opaque", "security.selinux"}) {
    EXPECT_NE(error_of_call(::setxattr(file.c_str(), name, "y", 1, 0)), 0) << name;
    EXPECT_NE(error_of_call(::removexattr(file.c_str(), name)), 0) << name;
    EXPECT_THAT(error_of_call(::getxattr(file.c_str(), name, nullptr, 0)),
                AnyOf(ENODATA, EOPNOTSUPP))
        << name;
  }
  std::array<char, 4096> list{};
  const auto length = ::listxattr(file.c_str(), list.data(), list.size());
  const std::string names(list.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  for (const auto* space : {"trusted.", "security.", "cowfs"}) {
    EXPECT_THAT(names, Not(HasSubstr(space)));
  }
  for (const auto* name : {"trusted.a", "security.a", "user.cowfs.metadata", "user.cowfs.a"}) {
    std::array<char, 8> value{};
    EXPECT_EQ(::getxattr(host("file").c_str(), name, value.data(), value.size()), 1) << name;
    EXPECT_EQ(value[0], 'x') << name;
  }
}

TEST_F(ExportRights, AclsAreOutOfReachUnlessAskedFor) {
  put_content(host("file"), "x");
  ASSERT_EQ(run({.command = {"setfacl", "-m", "u:12345:rw", host("file").string()}}).status, 0);
  const Exported exported(host(), mounted());
  (void)run({.command = {"setfacl", "-b", mounted("file").string()}});  // it sees none
  EXPECT_NE(run({.command = {"setfacl", "-m", "u:1:rw", mounted("file").string()}}).status, 0);
  EXPECT_THAT(run({.command = {"getfacl", "-n", host("file").string()}}).out,
              HasSubstr("user:12345:rw"));
}

TEST_F(ExportRights, AttributesOfAnySizeAreErrorsAtMost) {
  put_content(host("file"), "x");
  const Exported exported(host(), mounted());
  const auto file = mounted("file");
  const std::string value(65537, 'v');
  const std::string name = "user." + std::string(251, 'n');
  EXPECT_EQ(error_of_call(::setxattr(file.c_str(), name.c_str(), "x", 1, 0)), ERANGE);
  EXPECT_EQ(error_of_call(::setxattr(file.c_str(), "user.a", value.data(), value.size(), 0)),
            E2BIG);
  EXPECT_THAT(error_of_call(::setxattr(file.c_str(), "user.a", value.data(), 65536, 0)),
              AnyOf(0, ENOSPC, E2BIG));
  EXPECT_EQ(error_of_call(::setxattr(file.c_str(), "user.", "x", 1, 0)), EINVAL);
  EXPECT_EQ(content_of(file), "x");
}

}  // namespace
}  // namespace cowfs::tests
