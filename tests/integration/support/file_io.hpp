// System calls on files, one call each, with errors as exceptions.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "tests/support/errors_of.hpp"

namespace cowfs::tests {

using Bytes = std::vector<std::byte>;

/// All throw std::system_error.
core::FileDescriptor open_file(const boost::filesystem::path& path, int flags);

/// What one pread gives, with as many bytes as it gave.
Bytes read_at(const core::FileDescriptor& file, std::uint64_t offset, std::size_t length);

/// How much one pwrite took.
std::size_t write_at(const core::FileDescriptor& file, std::uint64_t offset,
                     std::span<const std::byte> bytes);

void allocate(const core::FileDescriptor& file, int mode, std::uint64_t offset,
              std::uint64_t length);
void sync_file(const core::FileDescriptor& file);
void sync_data(const core::FileDescriptor& file);

/// As lseek with SEEK_DATA or SEEK_HOLE.
std::uint64_t seek(const core::FileDescriptor& file, std::uint64_t offset, int whence);

[[nodiscard]] struct stat status_of(const boost::filesystem::path& path);
[[nodiscard]] struct stat status_of(const core::FileDescriptor& file);

/// The first `length` bytes of a file in memory.
class MappedFile {
 public:
  /// `protection` and `flags` as mmap takes them.
  MappedFile(const core::FileDescriptor& file, std::size_t length, int protection, int flags);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, length_}; }
  void sync() const;
  /// How many of the bytes are in the page cache, in whole pages.
  [[nodiscard]] std::uint64_t resident() const;

 private:
  std::byte* data_;
  std::size_t length_;
};

/// How many bytes of the file are in the page cache, in whole pages. Brings none in.
[[nodiscard]] std::uint64_t resident_bytes(const boost::filesystem::path& path);

/// Whether the kernel is this version or a later one.
[[nodiscard]] bool kernel_is_at_least(unsigned major, unsigned minor);

}  // namespace cowfs::tests
