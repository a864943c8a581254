// The answer to a read, as memory that the kernel can take without another copy.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cowcore/mapped_windows.hpp"

namespace cowfs::core {

/// A list of pieces of memory that together are a part of the merged image. Made by
/// CowImage::view; used again for the next read, so that reading allocates nothing.
///
/// Pieces may lie in mapped files: hand them to writev or the like, and don't touch them (Mapping
/// says why). They stay valid until clear(), the next view, or the end of this object; one of these
/// has to come before the end of the image.
/// Thread safety: one thread at a time.
class ReadView {
 public:
  /// `longest`: the longest read that will be asked for, in bytes.
  explicit ReadView(std::size_t longest);

  [[nodiscard]] std::span<const iovec> pieces() const { return pieces_; }
  [[nodiscard]] std::size_t longest() const { return longest_; }

  void clear();

 private:
  friend class CowImage;

  void add_memory(const std::byte* data, std::size_t length);
  void add_zeros(std::size_t length);
  const MappedWindows::Pin* pin(MappedWindows& file, std::uint64_t offset);
  /// Adds the file's bytes from its mapped windows; false, with nothing added, if they can't be
  /// had.
  bool add_mapped(MappedWindows& file, std::uint64_t offset, std::size_t length);
  /// Where bytes of the file are mapped; null if they can't be had, or not in one window.
  const std::byte* find_mapped(MappedWindows& file, std::uint64_t offset, std::size_t length);
  /// Room for bytes that have to be copied; the caller fills it before the next call.
  std::span<std::byte> add_scratch(std::size_t length);

  std::size_t longest_;
  std::vector<iovec> pieces_;
  std::vector<MappedWindows::Pin> pins_;
  std::unique_ptr<std::byte[]> scratch_;
  std::size_t scratch_used_ = 0;
};

}  // namespace cowfs::core
