// Small file systems on real block devices, to run out of space or to fail.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <string>

namespace cowfs::tests {

/// An ext4 in a file, mounted through a loop device; both are gone when this object is.
class LoopDisk {
 public:
  /// Mounts what is in `image`. The directory is made if need be. Throws std::runtime_error with
  /// what mount said.
  LoopDisk(const boost::filesystem::path& image, boost::filesystem::path point);
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;
  ~LoopDisk();

  [[nodiscard]] const boost::filesystem::path& point() const { return point_; }
  /// Throws std::runtime_error with what umount said.
  void unmount();

 private:
  boost::filesystem::path point_;
  bool mounted_ = false;
};

/// Makes an ext4 in a file, which exists. `options` are those of mkfs.ext4. Throws
/// std::runtime_error.
void make_ext4(const boost::filesystem::path& image, const std::string& options = {});

/// A new sparse file.
void make_sparse_file(const boost::filesystem::path& path, std::uint64_t size);

/// Takes all the space that is left where `path` is to be, by a file of that name. Give it back by
/// removing the file.
void fill_disk(const boost::filesystem::path& path);

}  // namespace cowfs::tests
