// A place where tests may mount, and start daemons, without leaving anything behind.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <functional>
#include <string>

namespace cowfs::tests {

/// Runs `work` in a process of its own that has mounts, process numbers and a /run of its own, and
/// returns what it returned; or 128 and the number of the signal that ended it. When that process
/// ends, even when it is killed, the kernel ends all that it started, and all its mounts are gone.
/// Needs root. Call it before there are threads. Throws std::system_error.
[[nodiscard]] int run_in_sandbox(const std::function<int()>& work);

/// A mount in this sandbox that is gone when this object is.
class TestMount {
 public:
  /// The arguments are those of mount(2). Throws std::system_error.
  TestMount(const char* source, boost::filesystem::path point, const char* type,
            unsigned long flags, const char* options);
  TestMount(const TestMount&) = delete;
  TestMount& operator=(const TestMount&) = delete;
  ~TestMount();

  [[nodiscard]] const boost::filesystem::path& point() const { return point_; }

 private:
  boost::filesystem::path point_;
};

/// A file system in memory, on a directory that exists. `options` are those of a tmpfs.
[[nodiscard]] TestMount mount_memory(const boost::filesystem::path& point,
                                     const std::string& options);

/// Shows one file in the place of another.
[[nodiscard]] TestMount mount_file(const boost::filesystem::path& file,
                                   const boost::filesystem::path& in_place_of);

/// A /dev/fuse with another mode. Udev makes it so that every user may open it; a machine without
/// udev has one that only root may open.
[[nodiscard]] TestMount mount_fuse_device(mode_t mode);

}  // namespace cowfs::tests
