// The first request of a connection, in which the kernel says what it can do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cowfs::fuse {

/// The upper half (bit 32 and up) of the flags that the kernel offers in a FUSE_INIT request; 0 for
/// a kernel that has none. Throws std::runtime_error if it is no FUSE_INIT request.
[[nodiscard]] std::uint32_t offered_flags2(std::span<const std::byte> request);

// Flags that are in newer <linux/fuse.h> than Debian 12's; all of the upper half.

/// FUSE_DIRECT_IO_ALLOW_MMAP, bit 36: a file that is open for direct I/O may be mapped shared.
inline constexpr std::uint32_t direct_io_allow_mmap = std::uint32_t{1} << (36 - 32);
/// FUSE_HAS_RESEND, bit 39: the kernel sends requests again when asked to.
inline constexpr std::uint32_t has_resend = std::uint32_t{1} << (39 - 32);

}  // namespace cowfs::fuse
