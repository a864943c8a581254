// Having the pages of a reply in memory before the kernel takes them.
//
// The kernel would bring them in itself, but not for a process that is just being killed: for that
// it fails the request with EIO, where one that is not answered is answered by the next worker.
#pragma once

#include <sys/uio.h>

#include <span>

namespace cowfs::fuse {

/// Installs what touch_pages needs, a handler of SIGBUS; once for the process. A SIGBUS of anything
/// else still ends the process.
void prepare_to_touch();

/// Reads a byte of each page of the pieces, which may lie in mapped files, so that it is mapped
/// from then on. A page that can't be had (a truncated file, a disk error) ends it quietly: the
/// reply will tell. Where all pages are mapped it makes no system call; madvise(2) with
/// MADV_POPULATE_READ takes 2 us for the one page of a short read.
/// Thread safety: from any thread, after prepare_to_touch.
void touch_pages(std::span<const iovec> pieces) noexcept;

}  // namespace cowfs::fuse
