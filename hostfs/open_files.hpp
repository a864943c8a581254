// The files and directories that are open through an export.
//
// A handle is a descriptor of a regular file or a directory; nothing else is ever opened. It goes
// with the node that it was opened for: a request that names another one is refused. Handles are
// counted: a guest that opens without end gets ENFILE, and the daemon keeps descriptors to work
// with.
#pragma once

#include <cstdint>
#include <mutex>

#include "cowcore/file_descriptor.hpp"
#include "hostfs/slot_table.hpp"

namespace cowfs::hostfs {

struct OpenFile {
  core::FileDescriptor fd;
  std::uint64_t node = 0;
  bool directory = false;
  std::uint32_t pins = 0;  ///< requests that use it now
  bool released = false;
};

/// Thread safety: all functions may be called at once.
class OpenFiles {
 public:
  explicit OpenFiles(std::uint32_t limit) : files_(limit) {}

  /// Keeps a file open while a request uses it.
  class Pin {
   public:
    Pin(OpenFiles& files, std::uint32_t index, OpenFile& file)
        : files_(&files), index_(index), file_(&file) {}
    Pin(Pin&& other) noexcept
        : files_(std::exchange(other.files_, nullptr)), index_(other.index_), file_(other.file_) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin() {
      if (files_ != nullptr) files_->unpin(index_);
    }
    [[nodiscard]] int fd() const { return file_->fd.get(); }
    OpenFile* operator->() const { return file_; }

   private:
    OpenFiles* files_;
    std::uint32_t index_;
    OpenFile* file_;
  };

  /// Throws ENFILE at the limit, before anything is opened for it.
  void require_room();
  /// Returns the handle. Throws ENFILE at the limit.
  [[nodiscard]] std::uint64_t add(OpenFile file);
  /// Throws EBADF if the handle is none, or not of this node and kind.
  [[nodiscard]] Pin pin(std::uint64_t handle, std::uint64_t node, bool directory = false);
  /// Closes it when no request uses it any more. Returns whether there was one.
  bool release(std::uint64_t handle);

  [[nodiscard]] std::uint32_t size();

 private:
  void unpin(std::uint32_t index);

  std::mutex mutex_;  ///< guards what follows; never held across a system call
  SlotTable<OpenFile> files_;
};

}  // namespace cowfs::hostfs
