// Getting from an O_PATH descriptor to what such a descriptor can't do itself.
//
// open(2) for I/O, and calls on extended attributes, take no O_PATH descriptor. The kernel's only
// way from one to the other that names exactly this inode, whatever has become of its name, is
// the link in /proc/self/fd. In the jail there is no /proc; this holds a directory descriptor of
// one that is mounted nowhere, belongs to the jail's own PID namespace, and so shows no process but
// the worker. Following such a link is safe: its name is the number of a descriptor in our own
// table, never anything that came in a request; it leads to the inode by itself, without a path;
// and its type (regular file or directory) was seen on the same descriptor before, so that no FIFO
// or device is opened.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <string>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::hostfs {

/// A descriptor's number as the name of its link.
class OwnFileName {
 public:
  explicit OwnFileName(int fd);
  [[nodiscard]] const char* c_str() const { return text_.data(); }

 private:
  std::array<char, 12> text_{};
};

/// Thread safety: all functions may be called at once.
class OwnFiles {
 public:
  /// `directory` is /proc/self/fd.
  explicit OwnFiles(core::FileDescriptor directory) : directory_(std::move(directory)) {}

  [[nodiscard]] int directory() const { return directory_.get(); }

  /// Another descriptor of the same inode. Throws std::system_error.
  [[nodiscard]] core::FileDescriptor reopen(int fd, int flags) const;

  /// Where the file is below the process's root, as far as the kernel can tell. Throws
  /// std::system_error.
  [[nodiscard]] std::string path_of(int fd) const;

  /// Gives the calling thread a working directory and a umask of its own, and makes /proc/self/fd
  /// that directory: calls without an *at form then take an OwnFileName as a path. To be called
  /// once by each thread that serves. Throws std::system_error.
  void enter() const;

 private:
  core::FileDescriptor directory_;
};

}  // namespace cowfs::hostfs
