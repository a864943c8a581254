#include "tests/integration/support/mounted.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libmount.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <utility>

#include "cowcore/cow_description.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/cow_pair.hpp"

namespace cowfs::tests {

namespace fs = boost::filesystem;

namespace {

std::unique_ptr<core::PosixStorage> open_storage(const fs::path& path) {
  return core::PosixStorage::open(path, core::Access::read_only, core::FileKinds::regular);
}

std::vector<std::string> mount_command(const std::string& image, const fs::path& point,
                                       const std::vector<std::string>& options) {
  std::vector<std::string> words{cowfs_program(), "mount"};
  words.insert(words.end(), options.begin(), options.end());
  words.insert(words.end(), {image, point.string()});
  return words;
}

}  // namespace

CowAndBacking make_cow_and_backing(const fs::path& directory, std::uint64_t backing_size,
                                   TestRandom& random, const std::string& name) {
  CowAndBacking files;
  files.backing = directory / (name + ".backing");
  files.cow = directory / (name + ".cow");
  files.content = padded(make_backing(*make_file(files.backing), backing_size, random));
  const auto created = cowfs({"create", files.cow.string(), files.backing.string()});
  if (created.status != 0) throw std::runtime_error("cowfs create: " + created.err);
  files.layout = core::describe_cow(*open_storage(files.cow)).layout;
  return files;
}

bool in_bitmap_of_file(const CowAndBacking& files, std::uint64_t offset) {
  return bit_on_disk(*open_storage(files.cow), files.layout, offset / core::sector_bytes);
}

std::vector<std::string> cowfs_mount_points() {
  const std::unique_ptr<libmnt_table, void (*)(libmnt_table*)> table(
      mnt_new_table_from_file("/proc/self/mountinfo"), mnt_unref_table);
  const std::unique_ptr<libmnt_iter, void (*)(libmnt_iter*)> iterator(
      mnt_new_iter(MNT_ITER_FORWARD), mnt_free_iter);
  std::vector<std::string> points;
  libmnt_fs* entry = nullptr;
  while (mnt_table_next_fs(table.get(), iterator.get(), &entry) == 0) {
    if (mnt_fs_match_fstype(entry, "fuse.cowfs,fuse.cowfs-export") == 1)
      points.emplace_back(mnt_fs_get_target(entry));
  }
  return points;
}

bool is_mounted(const fs::path& point) {
  const auto points = cowfs_mount_points();
  return std::ranges::find(points, point.string()) != points.end();
}

fuse::DaemonStatus ask_daemon(const fs::path& merged_file) {
  // Direct, so that this look does not change how the kernel caches the file.
  const auto file = open_file(merged_file, O_RDONLY | O_DIRECT);
  fuse::DaemonStatus status{};
  if (::ioctl(file.get(), fuse::get_daemon_status, &status) != 0) {
    throw std::system_error(errno, std::generic_category(), "ask the daemon");
  }
  return status;
}

Mounted::Mounted(fs::path point) : point_(std::move(point)) {
  if (!is_mounted(point_)) throw std::runtime_error(point_.string() + " is no mount of cowfs");
  try {
    daemon_.emplace(ask_daemon(file()).pid);
  } catch (...) {
    detach();
    throw;
  }
}

Mounted::Mounted(fs::path point, pid_t daemon) : point_(std::move(point)), daemon_(daemon) {}

Mounted::~Mounted() {
  if (is_mounted(point_)) detach();
  if (!daemon_ || daemon_->wait_for_end()) return;
  ADD_FAILURE() << "the daemon of " << point_ << " does not end by itself";
  daemon_->signal(SIGKILL);
}

void Mounted::detach() const {
  if (::umount2(point_.c_str(), UMOUNT_NOFOLLOW) != 0) {
    ::umount2(point_.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH);
  }
}

WatchedProcess Mounted::worker() const { return WatchedProcess(ask_daemon(file()).worker); }

fs::path Mounted::file() const { return fs::is_directory(point_) ? point_ / "disk" : point_; }

void Mounted::unmount() const {
  const auto done = cowfs({"umount", point_.string()});
  if (done.status != 0) throw std::runtime_error("cowfs umount: " + done.err);
}

Mounted mount_image(const std::string& image, const fs::path& point,
                    const std::vector<std::string>& options) {
  const auto done = run({.command = mount_command(image, point, options)});
  if (done.status != 0) throw std::runtime_error("cowfs mount: " + done.err);
  return Mounted(point);
}

ForegroundMount::ForegroundMount(const std::string& image, const fs::path& point,
                                 const std::vector<std::string>& options)
    : process_([&] {
        auto words = options;
        words.emplace_back("--foreground");
        return Launch{.command = mount_command(image, point, words)};
      }()) {
  const bool decided =
      eventually([&] { return is_mounted(point) || process_.watched().has_ended(); });
  if (!decided || !is_mounted(point)) throw std::runtime_error("cowfs mount: " + process_.err());
  mounted_.emplace(point);
}

MountTest::MountTest()
    : seed_(__FILE__, __LINE__, seed_hint()), point_(directory_ / "merged"), random_(0) {
  write_file(point_, std::string());
}

}  // namespace cowfs::tests
