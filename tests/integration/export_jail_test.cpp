// What an export does not show, and what its worker could not reach if it wanted to.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/sandbox.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using ExportJail = ExportTest;

/// From now on, in this process and those that it starts, the call fails: with its namespaces only,
/// if it is clone(2).
void forbid(int call) {
  const auto filter = ::seccomp_init(SCMP_ACT_ALLOW);
  ::seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
  const auto deny = SCMP_ACT_ERRNO(EPERM);
  const int failed = call == SCMP_SYS(clone)
                         ? ::seccomp_rule_add(filter, deny, call, 1,
                                              SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWNS, CLONE_NEWNS))
                         : ::seccomp_rule_add(filter, deny, call, 0);
  if (failed != 0 || ::seccomp_load(filter) != 0) throw std::runtime_error("no filter");
  ::seccomp_release(filter);
}

std::string status_line(pid_t pid, const std::string& key) {
  fs::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key + ":", 0) == 0) return line.substr(line.find_last_of("\t ") + 1);
  }
  return {};
}

std::string namespace_of(const std::string& pid, const std::string& kind) {
  return fs::read_symlink("/proc/" + pid + "/ns/" + kind).string();
}

TEST_F(ExportJail, TheWorkerHasNothingElseInReach) {
  const Exported exported(host(), mounted());
  const auto worker = exported.worker();
  const auto process = fs::path("/proc") / std::to_string(worker);
  for (const auto* kind : {"mnt", "pid", "net", "ipc", "uts", "cgroup"}) {
    EXPECT_NE(namespace_of(std::to_string(worker), kind), namespace_of("self", kind)) << kind;
  }
  EXPECT_EQ(content_of(process / "environ"), "");
  EXPECT_EQ(status_line(worker, "NoNewPrivs"), "1");
  EXPECT_EQ(status_line(worker, "Seccomp"), "2");
  EXPECT_EQ(status_line(worker, "CapBnd"), status_line(worker, "CapPrm"));
  // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID
  EXPECT_EQ(status_line(worker, "CapPrm"), "00000000000000db");
  EXPECT_EQ(status_line(worker, "CapInh"), "0000000000000000");
  fs::ifstream mounts(process / "mountinfo");
  int count = 0;
  for (std::string line; std::getline(mounts, line); ++count) {
    EXPECT_THAT(line, HasSubstr("nosuid,nodev,noexec"));
  }
  EXPECT_EQ(count, 1);
  struct stat root {};
  ASSERT_EQ(::stat((process / "root").c_str(), &root), 0);
  EXPECT_EQ(root.st_ino, status_of(host()).st_ino);
}

TEST_F(ExportJail, TheWorkerHasNoDescriptorsButItsOwn) {
  const auto inherited = open_file(outside(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::fcntl(inherited.get(), F_SETFD, 0), 0);
  const Exported exported(host(), mounted());
  const auto directory = fs::path("/proc") / std::to_string(exported.worker()) / "fd";
  for (const auto& entry : fs::directory_iterator(directory)) {
    boost::system::error_code gone;  // it is serving this look
    const auto target = fs::read_symlink(entry.path(), gone).string();
    if (gone) continue;
    EXPECT_THAT(target, ::testing::AnyOf("/dev/null", "/dev/fuse", "/", HasSubstr("socket:"),
                                         ::testing::MatchesRegex("/[0-9]+/(fd|status|mountinfo)")))
        << entry.path();
  }
}

TEST_F(ExportJail, LinksLeadNowhereOnTheHost) {
  put_content(outside("secret"), "secret");
  fs::create_symlink("../secret", host("up"));
  fs::create_symlink(outside(), host("directory"));
  const Exported exported(host(), mounted());
  // As they are, they are the user's own to follow; by themselves they are links.
  struct stat status {};
  ASSERT_EQ(::lstat(mounted("up").c_str(), &status), 0);
  EXPECT_TRUE(S_ISLNK(status.st_mode));
  EXPECT_EQ(fs::read_symlink(mounted("up")), "../secret");
  EXPECT_EQ(::lchown(mounted("up").c_str(), 7, 7), 0);
  EXPECT_EQ(status_of(outside("secret")).st_uid, 0U);
}

TEST_F(ExportJail, LinksThatLeaveAreRefusedWhenAsked) {
  put_content(host("file"), "x");
  fs::create_directories(host("a/b"));
  fs::create_symlink(host("file"), host("absolute"));
  fs::create_symlink("/etc/passwd", host("out"));
  fs::create_symlink("../../file", host("a/b/inside"));
  fs::create_symlink("../../../host/file", host("a/b/through the top"));
  fs::create_symlink(host().string() + "ab/file", host("look-alike"));
  const Exported exported(host(), mounted(), "symlinks=inside");
  EXPECT_EQ(fs::read_symlink(mounted("absolute")), "/file");
  EXPECT_EQ(fs::read_symlink(mounted("a/b/inside")), "../../file");
  std::array<char, 256> text{};
  for (const auto* name : {"out", "a/b/through the top", "look-alike"}) {
    EXPECT_EQ(error_of_call(::readlink(mounted(name).c_str(), text.data(), text.size())), EPERM)
        << name;
  }
  EXPECT_EQ(error_of_call(::symlink("../x", mounted("new").c_str())), EPERM);
  EXPECT_EQ(error_of_call(::symlink("../../x", mounted("a/b/new").c_str())), 0);
  EXPECT_EQ(error_of_call(::symlink("/a/b", mounted("made").c_str())), 0);
  EXPECT_EQ(fs::read_symlink(host("made")), host("a/b"));
  EXPECT_EQ(fs::read_symlink(mounted("made")), "/a/b");
}

TEST_F(ExportJail, LinksAreRefusedWhenAsked) {
  fs::create_symlink("file", host("link"));
  const Exported exported(host(), mounted(), "symlinks=refuse");
  std::array<char, 256> text{};
  EXPECT_EQ(error_of_call(::readlink(mounted("link").c_str(), text.data(), text.size())), EPERM);
  EXPECT_EQ(error_of_call(::symlink("file", mounted("new").c_str())), EPERM);
}

class ExportSandbox : public ExportTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kind, ExportSandbox, ::testing::Values("namespace", "chroot", "none"));

TEST_P(ExportSandbox, DoesNotShowWhatIsMountedBelow) {
  fs::create_directory(host("before"));
  fs::create_directory(host("later"));
  const auto before = mount_memory(host("before"), "size=1M");
  put_content(before.point() / "file", "x");
  const Exported exported(host(), mounted(), "timeout=0",
                          {std::string("--sandbox=") + GetParam(), "--i-know"});
  const auto later = mount_memory(host("later"), "size=1M");
  put_content(later.point() / "file", "x");
  EXPECT_FALSE(fs::exists(mounted("before/file")));
  EXPECT_FALSE(fs::exists(mounted("later/file")));
}

TEST_F(ExportJail, ShowsWhatIsMountedBelowWhenAsked) {
  fs::create_directory(host("before"));
  const auto before = mount_memory(host("before"), "size=1M");
  put_content(before.point() / "file", "x");
  const Exported exported(host(), mounted(), "submounts=yes");
  EXPECT_EQ(content_of(mounted("before/file")), "x");
  EXPECT_EQ(status_of(mounted("before")).st_dev, status_of(mounted()).st_dev);
}

TEST_F(ExportJail, DoesNotOpenWhatIsNoFile) {
  ASSERT_EQ(::mkfifo(host("fifo").c_str(), 0666), 0);
  ASSERT_EQ(::mknod(host("null").c_str(), S_IFCHR | 0666, 0x103), 0);
  const Exported exported(host(), mounted());
  // The mount's own kernel deals with a FIFO; it has nothing to do with the host's.
  EXPECT_EQ(error_of_call(::open(mounted("fifo").c_str(), O_WRONLY | O_NONBLOCK)), ENXIO);
  EXPECT_EQ(error_of_call(::open(mounted("null").c_str(), O_RDONLY)), EACCES);
}

TEST_F(ExportJail, DoesNotShowCowfsOwnRunDirectory) {
  fs::create_directories("/run/cowfs");
  put_content("/run/cowfs/pending-x", "x");
  fs::create_directory("/run/point");
  const Exported exported("/run", mounted());
  EXPECT_FALSE(fs::exists(mounted("cowfs")));
  EXPECT_FALSE(fs::exists(mounted("cowfs/pending-x")));
  EXPECT_TRUE(fs::exists(mounted("point")));
  for (const auto& entry : fs::directory_iterator(mounted())) {
    EXPECT_NE(entry.path().filename(), "cowfs");
  }
  const auto refused = cowfs({"export", "/run/cowfs", mounted().string()});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("belongs to running mounts"));
}

TEST_F(ExportJail, ADirectoryThatIsMovedOutLeadsNowhere) {
  fs::create_directories(host("a/b"));
  put_content(outside("secret"), "x");
  const Exported exported(host(), mounted(), "timeout=0");
  const auto inside = open_file(mounted("a/b"), O_RDONLY | O_DIRECTORY);
  fs::rename(host("a/b"), outside("b"));
  // Above it there is what the mount shows, as before.
  EXPECT_EQ(error_of_call(::openat(inside.get(), "../../secret", O_RDONLY)), ENOENT);
  EXPECT_EQ(error_of_call(::openat(inside.get(), "../secret", O_RDONLY)), ENOENT);
}

TEST_F(ExportJail, SaysWhatIsInForce) {
  const Exported exported(host(), mounted(), "as=12345:12345", {"--explain"});
  EXPECT_THAT(
      exported.said(),
      AllOf(HasSubstr("Uid: 12345 12345 12345 12345\n"), HasSubstr("CapPrm: 0000000000000000\n"),
            HasSubstr("CapBnd: 0000000000000000\n"), HasSubstr("Seccomp: 2\n"),
            HasSubstr("NSpid: 1\n"), HasSubstr("Mounts in sight: 1\n")));
}

TEST_F(ExportJail, RefusesToStartWithoutASandbox) {
  const auto refuse = [&](std::vector<std::string> words, int status, const char* why) {
    words.insert(words.begin(), "export");
    words.insert(words.end(), {host().string(), mounted().string()});
    const auto done = cowfs(words);
    EXPECT_EQ(done.status, status) << why;
    EXPECT_THAT(done.err, HasSubstr(why));
    EXPECT_THAT(cowfs_mount_points(), IsEmpty());
    EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
  };
  refuse({"--sandbox=none"}, 2, "--i-know");
  refuse({"--sandbox=nothing"}, 2, "namespace, chroot or none");
  refuse({"-o", "nosuch"}, 2, "nosuch: unknown option");
  refuse({"-o", "as=nosuchuser"}, 2, "no user");
  refuse({"-o", "map=b:0:5"}, 2, "three numbers");
}

TEST_F(ExportJail, RefusesToStartWhenAStepOfTheSandboxFails) {
  for (const auto& step :
       {std::pair{SCMP_SYS(pivot_root), "the sandbox: cannot change its root: "},
        std::pair{SCMP_SYS(open_tree), "the sandbox: cannot copy the directory's mount: "},
        std::pair{SCMP_SYS(fsopen), "the sandbox: cannot make a /proc of its own: "},
        std::pair{SCMP_SYS(clone), "the sandbox: cannot make namespaces: "}}) {
    Worker without([&] {
      forbid(step.first);
      const auto done = cowfs({"export", host().string(), mounted().string()});
      if (done.status != 1 || done.err.find(step.second) == std::string::npos) {
        throw std::runtime_error(done.err);
      }
    });
    const auto outcome = without.wait();
    EXPECT_EQ(outcome.status, 0) << step.second << outcome.err;
    EXPECT_THAT(cowfs_mount_points(), IsEmpty());
    EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
  }
}

TEST_F(ExportJail, AWorkerThatIsKilledEndsTheMountAndDamagesNothing) {
  const Exported exported(host(), mounted());
  put_content(mounted("file"), "content");
  const WatchedProcess worker(exported.worker());
  worker.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_mounted(mounted()); }));
  EXPECT_TRUE(exported.daemon().wait_for_end());
  EXPECT_EQ(content_of(host("file")), "content");
}

TEST_F(ExportJail, EverythingKilledIsUnmountedByUmount) {
  const Exported exported(host(), mounted());
  const WatchedProcess worker(exported.worker());
  exported.daemon().signal(SIGKILL);
  EXPECT_TRUE(worker.wait_for_end());
  exported.unmount();
  EXPECT_THAT(cowfs_mount_points(), IsEmpty());
}

TEST_F(ExportJail, LimitsAreErrorsAndNotTheEnd) {
  for (int i = 0; i < 64; ++i) put_content(host(std::to_string(i)), "x");
  const Exported exported(host(), mounted(), "max-open=8,max-inodes=32");
  std::vector<core::FileDescriptor> files;
  int error = 0;
  for (int i = 0; i < 20 && error == 0; ++i) {
    core::FileDescriptor file(::open(mounted("0").c_str(), O_RDONLY | O_CLOEXEC));
    error = file ? 0 : errno;
    files.push_back(std::move(file));
  }
  EXPECT_EQ(error, ENFILE);
  EXPECT_EQ(files.size(), 9U);
  files.clear();
  error = 0;
  for (int i = 0; i < 64 && error == 0; ++i) {
    core::FileDescriptor file(::open(mounted(std::to_string(i)).c_str(), O_PATH | O_CLOEXEC));
    error = file ? 0 : errno;
    files.push_back(std::move(file));
  }
  EXPECT_EQ(error, ENFILE);
  EXPECT_TRUE(eventually([&] { return ::access(mounted("0").c_str(), R_OK) == 0; }));
  EXPECT_EQ(content_of(mounted("0")), "x");
}

TEST_F(ExportJail, MoreFilesThanTheLimitCanBeVisitedOneAfterTheOther) {
  utsname system{};
  ::uname(&system);
  int major = 0;
  int minor = 0;
  std::sscanf(system.release, "%d.%d", &major, &minor);
  if (std::pair(major, minor) < std::pair(6, 18)) {
    GTEST_SKIP() << "Linux " << system.release << " can't be asked to forget inodes (6.18 can)";
  }
  constexpr int files = 1000;
  for (int i = 0; i < files; ++i) put_content(host(std::to_string(i)), "x");
  const Exported exported(host(), mounted(), "max-inodes=100");
  for (int i = 0; i < files; ++i) {
    // A flood may be quicker than the kernel forgets: then there is room a moment later.
    EXPECT_TRUE(eventually([&] { return ::access(mounted(std::to_string(i)).c_str(), R_OK) == 0; }))
        << i;
  }
}

TEST_F(ExportJail, AnOrdinaryUsersIsInAUserNamespace) {
  const auto home_disk = mount_memory("/mnt", "mode=0755");
  const auto device = mount_fuse_device(0666);
  const auto program = fs::path("/mnt/cowfs");
  put_content(program, content_of(cowfs_program()));
  ASSERT_EQ(::chmod(program.c_str(), 0755), 0);
  constexpr uid_t user = 65534;  // fusermount3 wants one that has a name
  for (const auto* name : {"/mnt/host", "/mnt/point", "/mnt/run"}) {
    fs::create_directory(name);
    ASSERT_EQ(::chown(name, user, user), 0);
  }
  const auto as_user = [&](std::vector<std::string> words) {
    words.insert(words.begin(), program.string());
    return run({.command = words, .user = user, .variables = {"XDG_RUNTIME_DIR=/mnt/run"}});
  };
  const auto done = as_user({"export", "--explain", "/mnt/host", "/mnt/point"});
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_THAT(done.out, AllOf(HasSubstr("Uid: 65534"), HasSubstr("CapBnd: 0000000000000000"),
                              HasSubstr("Mounts in sight: 1\n")));
  EXPECT_EQ(error_as(user, [] { return ::open("/mnt/point/file", O_CREAT | O_RDWR, 0600); }), 0);
  EXPECT_EQ(status_of("/mnt/host/file").st_uid, user);
  EXPECT_EQ(error_as(user, [] { return ::chown("/mnt/point/file", 0, 0); }), EPERM);
  put_content("/mnt/host/roots", "x");
  ASSERT_EQ(::chmod("/mnt/host/roots", 0600), 0);
  EXPECT_EQ(error_as(user, [] { return ::open("/mnt/point/roots", O_RDONLY); }), EACCES);
  EXPECT_EQ(as_user({"umount", "/mnt/point"}).status, 0);
  EXPECT_TRUE(eventually([] { return cowfs_processes().empty(); }));
}

}  // namespace
}  // namespace cowfs::tests
