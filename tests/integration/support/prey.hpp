// What an attack on an export is after.
#pragma once

#include <sys/stat.h>

#include <boost/filesystem/path.hpp>
#include <string>

namespace cowfs::tests {

/// A directory that only root may enter, with one file that only root may read. Nobody may touch
/// either.
class Prey {
 public:
  /// Makes it.
  explicit Prey(boost::filesystem::path directory);

  [[nodiscard]] const boost::filesystem::path& directory() const { return directory_; }
  [[nodiscard]] boost::filesystem::path file() const { return directory_ / "file"; }

  /// Fails the test if the directory has another entry, or anything but the time of the last access
  /// of either has changed.
  void expect_untouched() const;

 private:
  boost::filesystem::path directory_;
  struct stat directory_status_ {};
  struct stat file_status_ {};
};

}  // namespace cowfs::tests
