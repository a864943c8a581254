// Ways out of an export that go by names: links, swapped directories, hard links, mounts, handles.
//
// Where a link leads is decided here so that a daemon that followed it would be found out: the
// exported directory is "host/jail", so "../prey" names something beside it on the host and nothing
// at all beside the mount point; and an absolute name leads the caller, who is an ordinary user, to
// what only root may read.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/prey.hpp"
#include "tests/integration/support/sandbox.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using ::testing::AnyOf;

constexpr uid_t alice = 12345;

class ExportAttack : public ExportTest {
 protected:
  ExportAttack() {
    fs::create_directory(jail());
    EXPECT_EQ(::chmod(jail().c_str(), 0777), 0);
  }
  ~ExportAttack() override { prey_.expect_untouched(); }

  [[nodiscard]] fs::path jail(const std::string& name = {}) const {
    return name.empty() ? host("jail") : host("jail") / name;
  }
  [[nodiscard]] const Prey& prey() const { return prey_; }
  /// Opens and closes; what open(2) returned.
  [[nodiscard]] int open_mounted(const std::string& name, int flags = O_RDONLY) const {
    const core::FileDescriptor file(::open(mounted(name).c_str(), flags | O_CLOEXEC, 0600));
    return file.get();
  }

 private:
  Prey prey_{host("prey")};
};

TEST_F(ExportAttack, RelativeLinksAreNotFollowedOnTheHost) {
  fs::create_symlink("../prey/file", jail("link"));
  const Exported exported(jail(), mounted());
  EXPECT_EQ(error_of_call(open_mounted("link")), ENOENT);
  EXPECT_EQ(error_of_call(open_mounted("link", O_RDWR | O_TRUNC)), ENOENT);
  EXPECT_EQ(error_of_call(open_mounted("link", O_RDWR | O_NOFOLLOW)), ELOOP);
  EXPECT_EQ(error_of_call(open_mounted("link", O_CREAT | O_EXCL | O_WRONLY)), EEXIST);
  EXPECT_EQ(error_of_call(::truncate(mounted("link").c_str(), 0)), ENOENT);
}

TEST_F(ExportAttack, AbsoluteLinksGiveNobodyTheDaemonsRights) {
  fs::create_symlink(prey().file(), jail("link"));
  const Exported exported(jail(), mounted(), "allow_other");
  EXPECT_EQ(error_as(alice, [&] { return open_mounted("link"); }), EACCES);
  EXPECT_EQ(error_as(alice, [&] { return open_mounted("link", O_WRONLY | O_TRUNC); }), EACCES);
  EXPECT_EQ(error_as(alice, [&] { return ::truncate(mounted("link").c_str(), 0); }), EACCES);
}

TEST_F(ExportAttack, ChainedLinksAreNotFollowedOnTheHost) {
  fs::create_symlink("second", jail("first"));
  fs::create_symlink("d/third", jail("second"));
  fs::create_directory(jail("d"));
  fs::create_symlink("../../prey/file", jail("d/third"));
  const Exported exported(jail(), mounted());
  EXPECT_EQ(error_of_call(open_mounted("first")), ENOENT);
  EXPECT_EQ(error_of_call(::chmod(mounted("first").c_str(), 0777)), ENOENT);
}

TEST_F(ExportAttack, LinksInTheMiddleAreNotFollowedOnTheHost) {
  fs::create_symlink("../prey", jail("link"));
  fs::create_directory(jail("d"));
  fs::create_symlink("..", jail("d/up"));
  const Exported exported(jail(), mounted());
  for (const std::string name : {"link/file", "d/up/link/file", "d/up/../prey/file"}) {
    EXPECT_EQ(error_of_call(open_mounted(name)), ENOENT) << name;
    EXPECT_EQ(error_of_call(open_mounted(name, O_RDWR | O_CREAT)), ENOENT) << name;
    EXPECT_EQ(error_of_call(::unlink(mounted(name).c_str())), ENOENT) << name;
    EXPECT_EQ(error_of_call(::mkdir(mounted(name + "x").c_str(), 0777)), ENOENT) << name;
    EXPECT_EQ(error_of_call(::rename(mounted(name).c_str(), mounted("x").c_str())), ENOENT) << name;
  }
}

TEST_F(ExportAttack, WhatIsDoneToALinkIsDoneToTheLink) {
  fs::create_symlink("../prey/file", jail("link"));
  const Exported exported(jail(), mounted());
  const auto link = mounted("link");
  const std::array<timespec, 2> times{timespec{1, 0}, timespec{2, 0}};
  EXPECT_EQ(error_of_call(::lchown(link.c_str(), alice, alice)), 0);
  EXPECT_EQ(error_of_call(::utimensat(AT_FDCWD, link.c_str(), times.data(), AT_SYMLINK_NOFOLLOW)),
            0);
  EXPECT_EQ(error_of_call(::fchmodat(AT_FDCWD, link.c_str(), 0, AT_SYMLINK_NOFOLLOW)), EOPNOTSUPP);
  EXPECT_THAT(error_of_call(::lsetxattr(link.c_str(), "user.a", "x", 1, 0)),
              AnyOf(EPERM, EOPNOTSUPP));
  EXPECT_EQ(error_of_call(::chown(link.c_str(), alice, alice)), ENOENT);
  EXPECT_EQ(error_of_call(::chmod(link.c_str(), 0777)), ENOENT);
  EXPECT_EQ(error_of_call(::utimensat(AT_FDCWD, link.c_str(), times.data(), 0)), ENOENT);
  EXPECT_EQ(error_of_call(::setxattr(link.c_str(), "user.a", "x", 1, 0)), ENOENT);
  EXPECT_EQ(error_of_call(::link(link.c_str(), mounted("again").c_str())), 0);
  struct stat again {};
  ASSERT_EQ(::lstat(jail("again").c_str(), &again), 0);
  EXPECT_TRUE(S_ISLNK(again.st_mode));
  EXPECT_EQ(again.st_uid, alice);
  EXPECT_EQ(again.st_mtim.tv_sec, 2);
}

TEST_F(ExportAttack, ALinkWithASecondNameDoesNotLeadOutWhereLinksStayInside) {
  fs::create_directories(jail("a/b"));
  const Exported exported(jail(), mounted(), "symlinks=inside,timeout=0");
  ASSERT_EQ(error_of_call(::symlink("../../prey", mounted("a/b/link").c_str())), 0);
  EXPECT_EQ(fs::read_symlink(mounted("a/b/link")), "../../prey");
  std::array<char, 256> text{};
  const auto read = [&](const std::string& name) {
    return error_of_call(::readlink(mounted(name).c_str(), text.data(), text.size()));
  };
  if (::link(mounted("a/b/link").c_str(), mounted("link").c_str()) == 0) {
    EXPECT_EQ(read("link"), EPERM);
    EXPECT_EQ(::unlink(mounted("a/b/link").c_str()), 0);
    EXPECT_EQ(read("link"), EPERM);
    EXPECT_EQ(::unlink(mounted("link").c_str()), 0);
    ASSERT_EQ(error_of_call(::symlink("../../prey", mounted("a/b/link").c_str())), 0);
  }
  // So does one that is moved.
  EXPECT_EQ(error_of_call(::rename(mounted("a/b/link").c_str(), mounted("link").c_str())), 0);
  EXPECT_EQ(read("link"), EPERM);
  // And a directory that it is in.
  ASSERT_EQ(error_of_call(::symlink("../../prey", mounted("a/b/link").c_str())), 0);
  EXPECT_EQ(error_of_call(::rename(mounted("a/b").c_str(), mounted("b").c_str())), 0);
  EXPECT_EQ(read("b/link"), EPERM);
}

TEST_F(ExportAttack, LinksThatStayInsideByTheirTextsDoNotLeadOutTogether) {
  fs::create_directories(jail("a/b"));
  const Exported exported(jail(), mounted(), "symlinks=inside");
  // Each seems to stay: "out" goes down two and up two; but "a/b/up" goes up by itself.
  ASSERT_EQ(error_of_call(::symlink("../..", mounted("a/b/up").c_str())), 0);
  const int made = error_of_call(::symlink("a/b/up/../prey", mounted("out").c_str()));
  EXPECT_EQ(made, EPERM);
  EXPECT_EQ(error_of_call(open_mounted("out/file")), ENOENT);
  fs::create_symlink("a/b/up/../prey", jail("from the host"));
  std::array<char, 256> text{};
  EXPECT_EQ(error_of_call(::readlink(mounted("from the host").c_str(), text.data(), text.size())),
            EPERM);
}

// --- magic links ---

TEST_F(ExportAttack, MagicLinksAreOnlyTexts) {
  const auto name = host("unlinked");
  put_content(name, "secret");
  const auto secret = open_file(name, O_RDWR);
  fs::remove(name);
  const auto link = fs::path(std::to_string(::getpid())) / "fd" / std::to_string(secret.get());
  ASSERT_EQ(content_of("/proc" / link), "secret");
  const Exported exported("/proc", mounted());
  // The worker may not even look: it has no right to trace.
  EXPECT_THAT(error_of_call(::open((mounted() / link).c_str(), O_RDONLY)), AnyOf(ENOENT, EACCES));
  const auto worker = std::to_string(exported.worker());
  for (const auto* own : {"root/sys", "cwd/sys", "exe", "fd/3", "fd/6", "mem"}) {
    EXPECT_NE(error_as(alice, [&] { return open_mounted(worker + "/" + own, O_RDWR); }), 0) << own;
  }
}

// --- hard links, and renaming across the border ---

TEST_F(ExportAttack, HardLinksAndRenamesDoNotCrossTheBorder) {
  put_content(jail("file"), "x");
  const Exported exported(jail(), mounted());
  const auto inside = mounted("file");
  const auto outside_file = prey().file();
  EXPECT_EQ(error_of_call(::link(outside_file.c_str(), mounted("in").c_str())), EXDEV);
  EXPECT_EQ(error_of_call(::link(inside.c_str(), host("out").c_str())), EXDEV);
  EXPECT_EQ(error_of_call(::rename(outside_file.c_str(), mounted("in").c_str())), EXDEV);
  EXPECT_EQ(error_of_call(::rename(inside.c_str(), host("out").c_str())), EXDEV);
  EXPECT_EQ(error_of_call(::renameat2(AT_FDCWD, inside.c_str(), AT_FDCWD, outside_file.c_str(),
                                      RENAME_EXCHANGE)),
            EXDEV);
  const auto inner = open_file(inside, O_RDWR);
  const auto outer = open_file(outside_file, O_RDWR);
  EXPECT_EQ(
      error_of_call(::linkat(outer.get(), "", AT_FDCWD, mounted("in").c_str(), AT_EMPTY_PATH)),
      EXDEV);
  EXPECT_EQ(error_of_call(::linkat(inner.get(), "", AT_FDCWD, host("out").c_str(), AT_EMPTY_PATH)),
            EXDEV);
  const auto by_proc = "/proc/self/fd/" + std::to_string(outer.get());
  EXPECT_EQ(error_of_call(::linkat(AT_FDCWD, by_proc.c_str(), AT_FDCWD, mounted("in").c_str(),
                                   AT_SYMLINK_FOLLOW)),
            EXDEV);
  EXPECT_EQ(fs::hard_link_count(jail("file")), 1U);
}

TEST_F(ExportAttack, WhiteoutsAreNotMade) {
  put_content(jail("file"), "x");
  const Exported exported(jail(), mounted());
  EXPECT_EQ(error_of_call(::renameat2(AT_FDCWD, mounted("file").c_str(), AT_FDCWD,
                                      mounted("new").c_str(), RENAME_WHITEOUT)),
            EINVAL);
  // A character device 0:0 takes no capability.
  EXPECT_EQ(error_of_call(::mknod(mounted("white").c_str(), S_IFCHR, 0)), EPERM);
  EXPECT_FALSE(fs::exists(jail("white")));
  EXPECT_EQ(content_of(jail("file")), "x");
}

// --- handles ---

/// A file handle with room for what a file system wants to say.
struct Handle {
  file_handle head{};
  std::array<unsigned char, MAX_HANDLE_SZ> bytes{};
};

TEST_F(ExportAttack, HandlesOpenNothingThatWasNotLookedUp) {
  put_content(jail("file"), "x");
  const Exported exported(jail(), mounted());
  const auto mount = open_file(mounted(), O_RDONLY | O_DIRECTORY);
  int mount_id = 0;
  Handle of_prey;
  of_prey.head.handle_bytes = MAX_HANDLE_SZ;
  ASSERT_EQ(::name_to_handle_at(AT_FDCWD, prey().file().c_str(), &of_prey.head, &mount_id, 0), 0);
  const auto open_handle = [&](Handle handle) {
    const core::FileDescriptor opened(
        ::open_by_handle_at(mount.get(), &handle.head, O_RDONLY | O_CLOEXEC));
    return opened ? 0 : errno;
  };
  const auto is_refusal = AnyOf(ESTALE, EOPNOTSUPP, EINVAL);
  EXPECT_THAT(open_handle(of_prey), is_refusal);
  // The kernel's own handles of FUSE (0x81, 0x82): the two halves of a node id, and a generation;
  // with the parent's after it.
  for (const int type : {0x81, 0x82, 1, 2}) {
    for (const auto& [high, low] : {std::pair{0U, 2U}, {1U, 0U}, {1U, 1U}, {1U, 77U}, {~0U, ~0U}}) {
      const std::array<std::uint32_t, 6> words{high, low, 77, high, low, 77};
      Handle forged;
      forged.head.handle_type = type;
      forged.head.handle_bytes = type == 0x82 || type == 2 ? 24 : 12;
      std::memcpy(forged.bytes.data(), words.data(), sizeof words);
      EXPECT_THAT(open_handle(forged), is_refusal) << type << " " << high << " " << low;
    }
  }
  EXPECT_EQ(content_of(mounted("file")), "x");
}

// --- what moves, and what is mounted, while it is in use ---

TEST_F(ExportAttack, ADirectoryThatIsMovedOutShowsNothingAboveIt) {
  fs::create_directories(jail("a/b"));
  put_content(jail("a/b/own"), "x");
  const Exported exported(jail(), mounted(), "timeout=0,symlinks=inside");
  const auto inside = open_file(mounted("a/b"), O_RDONLY | O_DIRECTORY);
  fs::rename(jail("a/b"), host("b"));
  for (const auto* name :
       {"../prey/file", "../../prey/file", "../../../prey/file", "../jail", "prey"}) {
    EXPECT_NE(error_of_call(::openat(inside.get(), name, O_RDONLY)), 0) << name;
  }
  EXPECT_NE(error_of_call(::symlinkat("../prey", inside.get(), "link")), 0);
  EXPECT_NE(error_of_call(::renameat(inside.get(), "own", AT_FDCWD, host("x").c_str())), 0);
  // What is made there, if it can be, is made in that directory.
  if (const int made = ::openat(inside.get(), "new", O_CREAT | O_WRONLY, 0600); made >= 0) {
    ::close(made);
    EXPECT_TRUE(fs::exists(host("b/new")));
  }
  if (const int made = ::openat(inside.get(), "../new", O_CREAT | O_WRONLY, 0600); made >= 0) {
    ::close(made);
    EXPECT_TRUE(fs::exists(jail("a/new")));
  }
}

class ExportAttackSandbox : public ExportAttack,
                            public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kind, ExportAttackSandbox,
                         ::testing::Values("namespace", "chroot", "none"));

TEST_P(ExportAttackSandbox, BindMountsThatAppearAreNotEntered) {
  fs::create_directory(jail("before"));
  fs::create_directory(jail("later"));
  put_content(jail("file"), "own");
  const TestMount before(prey().directory().c_str(), jail("before"), nullptr, MS_BIND, nullptr);
  const Exported exported(jail(), mounted(), "timeout=0",
                          {std::string("--sandbox=") + GetParam(), "--i-know"});
  const auto known = open_file(mounted("later"), O_RDONLY | O_DIRECTORY);
  const TestMount later(prey().directory().c_str(), jail("later"), nullptr, MS_BIND, nullptr);
  const TestMount over(prey().file().c_str(), jail("file"), nullptr, MS_BIND, nullptr);
  for (const auto* name : {"before/file", "later/file"}) {
    EXPECT_EQ(error_of_call(open_mounted(name)), ENOENT) << name;
    EXPECT_NE(error_of_call(::unlink(mounted(name).c_str())), 0) << name;
  }
  EXPECT_EQ(error_of_call(::openat(known.get(), "file", O_RDONLY)), ENOENT);
  if (const int file = ::open(mounted("file").c_str(), O_RDWR); file >= 0) {
    EXPECT_EQ(::pwrite(file, "OWN", 3, 0), 3);
    ::close(file);
  }
  EXPECT_EQ(error_of_call(::rename(mounted("file").c_str(), mounted("later/x").c_str())) == 0 &&
                fs::exists(prey().directory() / "x"),
            false);
}

TEST_F(ExportAttack, AnInodeNumberThatIsUsedAgainIsAnotherFile) {
  put_content(jail("file"), "old");
  const Exported exported(jail(), mounted(), "timeout=0");
  const auto number = status_of(jail("file")).st_ino;
  const auto held = open_file(mounted("file"), O_RDWR);
  fs::remove(jail("file"));
  for (int i = 0; i < 200; ++i) {
    const auto name = "new" + std::to_string(i);
    put_content(jail(name), "new");
    EXPECT_NE(status_of(jail(name)).st_ino, number);  // the worker has it
    EXPECT_EQ(content_of(mounted(name)), "new");
  }
  ASSERT_EQ(write_at(held, 0, std::as_bytes(std::span("OLD", 3))), 3U);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(content_of(jail("new" + std::to_string(i))), "new");
  }
}

}  // namespace
}  // namespace cowfs::tests
