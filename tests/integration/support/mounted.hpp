// Mounts of the program under test, and the COW files for them.
#pragma once

#include <gtest/gtest.h>

#include <boost/filesystem/path.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "fuse/control.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/process.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

/// A backing of data and holes, and an empty COW for it that `cowfs create` made.
struct CowAndBacking {
  boost::filesystem::path cow;
  boost::filesystem::path backing;
  core::CowLayout layout;
  Bytes content;  ///< of the merged image as it is now

  [[nodiscard]] std::size_t size() const { return content.size(); }
};

/// Makes "NAME.cow" and "NAME.backing".
[[nodiscard]] CowAndBacking make_cow_and_backing(const boost::filesystem::path& directory,
                                                 std::uint64_t backing_size, TestRandom& random,
                                                 const std::string& name = "image");

/// Whether the COW's bitmap, as it is in the file, has the sector that holds `offset`.
[[nodiscard]] bool in_bitmap_of_file(const CowAndBacking& files, std::uint64_t offset);

/// The mount points of cowfs, images and exports.
[[nodiscard]] std::vector<std::string> cowfs_mount_points();
[[nodiscard]] bool is_mounted(const boost::filesystem::path& point);

/// Something that is mounted by the program under test. When this object goes, the mount goes too,
/// and so does the daemon: if it does not end by itself it is killed, and the test fails.
class Mounted {
 public:
  /// `point` is a mount point that is in use. Throws std::runtime_error if it is none.
  explicit Mounted(boost::filesystem::path point);
  /// For a mount whose daemon can't be asked, because another user made it.
  Mounted(boost::filesystem::path point, pid_t daemon);
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted();

  [[nodiscard]] const boost::filesystem::path& point() const { return point_; }
  /// The merged file.
  [[nodiscard]] boost::filesystem::path file() const;
  /// The process that ends last.
  [[nodiscard]] const WatchedProcess& daemon() const { return *daemon_; }
  /// The process that serves now.
  [[nodiscard]] WatchedProcess worker() const;

  /// By `cowfs umount`. Throws std::runtime_error with what it said.
  void unmount() const;

 private:
  void detach() const;

  boost::filesystem::path point_;
  std::optional<WatchedProcess> daemon_;
};

/// Runs `cowfs mount`. `options` come before the other arguments. Throws std::runtime_error with
/// what the program said if it fails.
[[nodiscard]] Mounted mount_image(const std::string& image, const boost::filesystem::path& point,
                                  const std::vector<std::string>& options = {});

/// What the daemon tells of itself, through the merged file. Throws std::system_error.
[[nodiscard]] fuse::DaemonStatus ask_daemon(const boost::filesystem::path& merged_file);

/// A mount that is served by a program in the foreground.
class ForegroundMount {
 public:
  ForegroundMount(const std::string& image, const boost::filesystem::path& point,
                  const std::vector<std::string>& options = {});

  [[nodiscard]] Process& process() { return process_; }
  [[nodiscard]] const Mounted& mounted() const { return *mounted_; }

 private:
  Process process_;
  std::optional<Mounted> mounted_;
};

/// What most tests here start from: a directory, and an empty file to mount on.
class MountTest : public ::testing::Test {
 protected:
  MountTest();

  [[nodiscard]] const boost::filesystem::path& directory() const { return directory_.path(); }
  [[nodiscard]] const boost::filesystem::path& point() const { return point_; }
  [[nodiscard]] TestRandom& random() { return random_; }
  [[nodiscard]] CowAndBacking make_files(std::uint64_t backing_size,
                                         const std::string& name = "image") {
    return make_cow_and_backing(directory(), backing_size, random_, name);
  }

 private:
  ::testing::ScopedTrace seed_;
  TemporaryDirectory directory_;
  boost::filesystem::path point_;
  TestRandom random_;
};

}  // namespace cowfs::tests
