// Reading memory that may turn out not to be there: the pages of mapped files.
//
// A page that a file no longer has, since it was cut short, or that the disk fails to give, is a
// SIGBUS for who touches it. The functions here come back from that.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>

namespace cowfs::core {

/// Installs what the functions below need, a handler of SIGBUS, for good. A SIGBUS of anything else
/// still ends the process. A program decides for itself: without it, nothing here touches memory
/// that is mapped, and what would be copied from there is read from the files.
void guard_mapped_memory();
[[nodiscard]] bool mapped_memory_is_guarded();

/// Reads a byte of each page of the pieces, which may lie in mapped files, so that it is mapped
/// from then on. Returns false at a page that can't be had. Where all pages are mapped it makes no
/// system call; madvise(2) with MADV_POPULATE_READ takes 2 us for the one page of a short read.
/// Thread safety: from any thread, after guard_mapped_memory.
bool touch_pages(std::span<const iovec> pieces) noexcept;

struct GuardedCopy {
  std::byte* to;
  const std::byte* from;  ///< may lie in a mapped file
  std::size_t length;
};

/// Makes the copies. Returns false at a page that can't be had; parts of them have been made then.
/// Thread safety: from any thread, after guard_mapped_memory.
[[nodiscard]] bool copy_guarded(std::span<const GuardedCopy> copies) noexcept;

}  // namespace cowfs::core
