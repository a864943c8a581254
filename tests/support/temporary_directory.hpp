// A place for the files of one test.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cowfs::tests {

/// A new directory below the build tree, with a name that has no symbolic link in it; removed with
/// all that is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  [[nodiscard]] const boost::filesystem::path& path() const { return path_; }
  [[nodiscard]] boost::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  boost::filesystem::path path_;
};

/// Goes to a directory, and back.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const boost::filesystem::path& path);
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;
  ~WorkingDirectory();

 private:
  boost::filesystem::path before_;
};

[[nodiscard]] std::vector<std::byte> read_file(const boost::filesystem::path& path);
void write_file(const boost::filesystem::path& path, std::span<const std::byte> bytes);
void write_file(const boost::filesystem::path& path, const std::string& text);

/// Whole seconds since 1970.
void set_mtime(const boost::filesystem::path& path, std::int64_t seconds);

/// The names of what is in a directory, in order.
[[nodiscard]] std::vector<std::string> names_in(const boost::filesystem::path& directory);

}  // namespace cowfs::tests
