// Attaching a FUSE connection to a mount point, and taking it off.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <string>

#include "cowcore/file_descriptor.hpp"
#include "fuse/log.hpp"

namespace cowfs::fuse {

struct MountOptions {
  boost::filesystem::path mount_point;  ///< a directory or a regular file
  std::string source;                   ///< what the mount table shows as the device
  std::string subtype;                  ///< the file system type is "fuse.SUBTYPE"
  bool read_only = false;
  bool allow_other = false;
  bool default_permissions = true;  ///< the kernel checks permissions by mode, owner and group
};

/// Mounts and returns the connection's descriptor of /dev/fuse. As root by mount(2), otherwise by
/// way of fusermount3. Always nodev and nosuid.
/// Throws core::Error.
[[nodiscard]] core::FileDescriptor mount(const MountOptions& options);

/// Lets the kernel read so far ahead for programs that read in order; it would take 128 KiB. For a
/// mount that is served already (FUSE_INIT sets what it would be), as root; else nothing changes.
void set_readahead(const boost::filesystem::path& mount_point, std::size_t bytes);

enum class Detach {
  if_idle,  ///< fails with EBUSY while somebody uses it
  by_force  ///< takes it out of the tree; whoever uses it, or waits for an answer, gets an error
};

/// Throws std::system_error. Detach::by_force asks nobody, so it also works for a mount whose
/// daemon is gone or hangs. An ordinary user needs fusectl for it (/sys/fs/fuse/connections);
/// without, those who wait go on waiting.
void unmount(const boost::filesystem::path& mount_point, Detach detach);

/// Takes a mount that nobody is to serve any more out of the tree; logs why if it can't.
void detach(const boost::filesystem::path& mount_point, Log& log);

}  // namespace cowfs::fuse
