#include "tests/integration/support/exported.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <stdexcept>

#include "fuse/control.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"

namespace cowfs::tests {

namespace fs = boost::filesystem;

Exported::Exported(const fs::path& directory, fs::path point, const std::string& options,
                   const std::vector<std::string>& words)
    : point_(std::move(point)) {
  std::vector<std::string> command{"export"};
  if (!options.empty()) command.insert(command.end(), {"-o", options});
  command.insert(command.end(), words.begin(), words.end());
  command.insert(command.end(), {directory.string(), point_.string()});
  const auto done = cowfs(command);
  if (done.status != 0) throw std::runtime_error("cowfs export: " + done.err);
  said_ = done.out;
  fuse::DaemonStatus status{};
  const auto root = open_file(point_, O_RDONLY | O_DIRECTORY);
  if (::ioctl(root.get(), fuse::get_daemon_status, &status) != 0) {
    throw std::system_error(errno, std::generic_category(), "ask the daemon");
  }
  daemon_.emplace(status.pid);
}

Exported::~Exported() {
  if (is_mounted(point_) && ::umount2(point_.c_str(), UMOUNT_NOFOLLOW) != 0) {
    ::umount2(point_.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH);
  }
  if (!daemon_ || daemon_->wait_for_end()) return;
  ADD_FAILURE() << "the daemon of " << point_ << " does not end by itself";
  daemon_->signal(SIGKILL);
}

pid_t Exported::worker() const {
  const auto pid = std::to_string(daemon_->pid());
  fs::ifstream children("/proc/" + pid + "/task/" + pid + "/children");
  // The last one: the process that it was before it went into the jail may not have ended yet.
  pid_t worker = 0;
  for (pid_t child = 0; children >> child;) worker = child;
  if (worker == 0) throw std::runtime_error("the export has no worker");
  return worker;
}

void Exported::unmount() const {
  const auto done = cowfs({"umount", point_.string()});
  if (done.status != 0) throw std::runtime_error("cowfs umount: " + done.err);
}

ExportTest::ExportTest() {
  // The build tree may be where only root may go.
  for (auto at = directory_.path(); at.has_parent_path() && at != "/"; at = at.parent_path()) {
    fs::permissions(at, fs::add_perms | fs::group_exe | fs::others_exe);
  }
  for (const auto* name : {"host", "mounted"}) {
    fs::create_directory(directory_ / name);
    fs::permissions(directory_ / name, fs::perms(0755));
  }
}

fs::path ExportTest::host(const std::string& name) const {
  return name.empty() ? directory_ / "host" : directory_ / "host" / name;
}
fs::path ExportTest::mounted(const std::string& name) const {
  return name.empty() ? directory_ / "mounted" : directory_ / "mounted" / name;
}
fs::path ExportTest::outside(const std::string& name) const { return directory_ / name; }

int error_as(uid_t user, const std::function<long()>& call, const std::vector<gid_t>& groups) {
  const pid_t child = ::fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    ::umask(0);
    const bool became = ::setgroups(groups.size(), groups.data()) == 0 &&
                        ::setresgid(user, user, user) == 0 && ::setresuid(user, user, user) == 0;
    ::_exit(!became ? 255 : call() < 0 ? errno : 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 254;
}

int error_of_call(long result) { return result < 0 ? errno : 0; }

std::string content_of(const fs::path& file) {
  fs::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + file.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

void put_content(const fs::path& file, const std::string& content) {
  fs::ofstream stream(file, std::ios::binary);
  stream << content << std::flush;
  if (!stream) throw std::runtime_error("cannot write " + file.string());
}

}  // namespace cowfs::tests
