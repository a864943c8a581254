// What the kernel's FUSE protocol has that <linux/fuse.h> of Debian 12 (Linux 6.1, protocol 7.38)
// has not. Names and numbers are those of Linux 6.18's include/uapi/linux/fuse.h.
#pragma once

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace cowfs::fuse {

// Flags of the INIT messages' upper half, `flags2`: bit N of the protocol is bit N - 32 here.

/// FUSE_CREATE_SUPP_GROUP, bit 34: requests that make an inode carry the supplementary group of the
/// caller that owns the parent directory.
inline constexpr std::uint32_t create_supp_group = std::uint32_t{1} << (34 - 32);
/// FUSE_DIRECT_IO_ALLOW_MMAP, bit 36: a file that is open for direct I/O may be mapped shared.
inline constexpr std::uint32_t direct_io_allow_mmap = std::uint32_t{1} << (36 - 32);
/// FUSE_PASSTHROUGH, bit 37: file data can go past the daemon (Linux 6.9).
inline constexpr std::uint32_t passthrough = std::uint32_t{1} << (37 - 32);
/// FUSE_HAS_RESEND, bit 39: the kernel sends requests again when asked to.
inline constexpr std::uint32_t has_resend = std::uint32_t{1} << (39 - 32);

/// fuse_init_out::max_stack_depth, which follows flags2: how many file systems may be stacked
/// below. Passthrough takes 1.
inline void set_max_stack_depth(fuse_init_out& reply, std::uint32_t depth) {
  reply.unused[0] = depth;
}

// Notices to the kernel.

inline constexpr int notify_resend = 7;  ///< FUSE_NOTIFY_RESEND
inline constexpr int notify_prune = 9;   ///< FUSE_NOTIFY_PRUNE (Linux 6.18)

/// FUSE_NOTIFY_PRUNE: asks for inodes to be forgotten that nobody uses; `count` node ids follow.
struct NotifyPrune {
  std::uint32_t count;
  std::uint32_t padding;
  std::uint64_t spare;
};

// Passthrough.

/// FOPEN_PASSTHROUGH: reads, writes and mappings of this open go to the backing file.
inline constexpr std::uint32_t open_passthrough = std::uint32_t{1} << 7;

/// fuse_open_out::backing_id, in the place of its padding.
inline void set_backing_id(fuse_open_out& reply, std::int32_t id) {
  reply.padding = static_cast<std::uint32_t>(id);
}

/// struct fuse_backing_map
struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
inline constexpr unsigned long backing_open = _IOW(229, 1, BackingMap);
inline constexpr unsigned long backing_close = _IOW(229, 2, std::uint32_t);

/// FUSE_EXT_GROUPS, a type of extension: struct fuse_supp_groups follows the fuse_ext_header.
inline constexpr std::uint32_t extension_groups = 32;

}  // namespace cowfs::fuse
