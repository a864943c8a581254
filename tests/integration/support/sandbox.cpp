#include "tests/integration/support/sandbox.hpp"

#include <libmount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "tests/support/temporary_directory.hpp"

namespace cowfs::tests {
namespace {

constexpr const char* fuse_device = "/dev/fuse";

[[noreturn]] void fail(const char* action) {
  throw std::system_error(errno, std::generic_category(), action);
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail("waitpid");
  }
  return status_of(status);
}

/// Gives this process mounts of its own. It begins with a copy of all that there are; those that
/// somebody may want to unmount meanwhile would be kept busy by their copies, so these go at once.
void leave_mounts_of_others() {
  if (::unshare(CLONE_NEWNS) != 0) fail("make a namespace for mounts (as root?)");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) fail("make mounts private");
  const std::unique_ptr<libmnt_table, void (*)(libmnt_table*)> table(
      mnt_new_table_from_file("/proc/self/mountinfo"), mnt_unref_table);
  const std::unique_ptr<libmnt_iter, void (*)(libmnt_iter*)> last_first(
      mnt_new_iter(MNT_ITER_BACKWARD), mnt_free_iter);
  libmnt_fs* entry = nullptr;
  while (mnt_table_next_fs(table.get(), last_first.get(), &entry) == 0) {
    const auto* source = mnt_fs_get_source(entry);
    const bool is_loop = source != nullptr && std::string_view(source).substr(0, 9) == "/dev/loop";
    if (is_loop || std::string_view(mnt_fs_get_fstype(entry)).substr(0, 4) == "fuse") {
      ::umount2(mnt_fs_get_target(entry), MNT_DETACH);
    }
  }
}

/// Ends what comes to it, orphans too, until the tests are done: the first process of a namespace
/// inherits all daemons, and takes them with it when it goes.
int be_first_process(const std::function<int()>& work) {
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    fail("mount /proc");
  }
  // What a daemon of these tests leaves in /run is not for those outside, and the reverse.
  if (::mount("none", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") != 0) fail("mount /run");
  const pid_t worker = ::fork();
  if (worker < 0) fail("fork");
  if (worker == 0) return work();
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(-1, &status, 0);
    if (ended == worker) return status_of(status);
    if (ended < 0 && errno != EINTR) fail("waitpid");
  }
}

}  // namespace

int run_in_sandbox(const std::function<int()>& work) {
  leave_mounts_of_others();
  if (::unshare(CLONE_NEWPID) != 0) fail("make a namespace for processes");
  const pid_t first = ::fork();
  if (first < 0) fail("fork");
  if (first > 0) return wait_for(first);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int status = 1;
  try {
    status = be_first_process(work);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sandbox: %s\n", error.what());
  }
  std::fflush(nullptr);
  ::_exit(status);
}

TestMount::TestMount(const char* source, boost::filesystem::path point, const char* type,
                     unsigned long flags, const char* options)
    : point_(std::move(point)) {
  if (::mount(source, point_.c_str(), type, flags, options) != 0) fail(point_.c_str());
}

TestMount::~TestMount() { ::umount2(point_.c_str(), MNT_DETACH); }

TestMount mount_memory(const boost::filesystem::path& point, const std::string& options) {
  return {"none", point, "tmpfs", 0, options.c_str()};
}

TestMount mount_file(const boost::filesystem::path& file,
                     const boost::filesystem::path& in_place_of) {
  return {file.c_str(), in_place_of, nullptr, MS_BIND, nullptr};
}

TestMount mount_fuse_device(mode_t mode) {
  struct stat present {};
  if (::stat(fuse_device, &present) != 0) fail(fuse_device);
  std::printf("%s has mode %04o; this test has one of its own, with mode %04o\n", fuse_device,
              present.st_mode & 07777U, mode);
  const TemporaryDirectory directory;
  const auto node = directory / "fuse";
  if (::mknod(node.c_str(), S_IFCHR, present.st_rdev) != 0) fail("mknod");
  if (::chmod(node.c_str(), mode) != 0) fail("chmod");
  return mount_file(node, fuse_device);
}

}  // namespace cowfs::tests
