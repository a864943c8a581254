// Exports of the program under test, and calls on their files as this or that user.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/integration/support/process.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::tests {

/// A directory that is exported. When this object goes the mount goes, and so does the daemon: if
/// it does not end by itself it is killed, and the test fails.
class Exported {
 public:
  /// Runs `cowfs export -o OPTIONS`; `words` come before the other arguments. Throws
  /// std::runtime_error with what the program said if it fails.
  Exported(const boost::filesystem::path& directory, boost::filesystem::path point,
           const std::string& options = {}, const std::vector<std::string>& words = {});
  Exported(const Exported&) = delete;
  Exported& operator=(const Exported&) = delete;
  ~Exported();

  [[nodiscard]] const boost::filesystem::path& point() const { return point_; }
  /// What it printed.
  [[nodiscard]] const std::string& said() const { return said_; }
  /// The process outside of the jail, and the one inside.
  [[nodiscard]] const WatchedProcess& daemon() const { return *daemon_; }
  [[nodiscard]] pid_t worker() const;

  /// By `cowfs umount`. Throws std::runtime_error with what it said.
  void unmount() const;

 private:
  boost::filesystem::path point_;
  std::string said_;
  std::optional<WatchedProcess> daemon_;
};

/// A directory to export, which every user may enter, and mount points.
class ExportTest : public ::testing::Test {
 protected:
  ExportTest();

  /// What is exported.
  [[nodiscard]] boost::filesystem::path host(const std::string& name = {}) const;
  /// Where it is mounted.
  [[nodiscard]] boost::filesystem::path mounted(const std::string& name = {}) const;
  /// Beside both.
  [[nodiscard]] boost::filesystem::path outside(const std::string& name = {}) const;

 private:
  TemporaryDirectory directory_;
};

/// Does `call` in another process as a user, who is in no other groups than `groups`; returns the
/// errno with which it failed (it returned less than 0), or 0.
[[nodiscard]] int error_as(uid_t user, const std::function<long()>& call,
                           const std::vector<gid_t>& groups = {});

/// The errno with which a system call failed, or 0.
[[nodiscard]] int error_of_call(long result);

[[nodiscard]] std::string content_of(const boost::filesystem::path& file);
void put_content(const boost::filesystem::path& file, const std::string& content);

}  // namespace cowfs::tests
