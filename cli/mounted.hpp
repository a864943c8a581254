// Finding a running cowfs mount and the processes behind it.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <optional>

#include "cowcore/file_descriptor.hpp"
#include "fuse/control.hpp"

namespace cowfs::cli {

/// A cowfs mount as the kernel's table shows it.
struct Mounted {
  boost::filesystem::path target;
  uid_t owner = 0;         ///< the user who mounted it
  bool is_export = false;  ///< a directory, not an image
};

/// Throws core::Error if there is no cowfs mount at this point, or it is another user's.
[[nodiscard]] Mounted find_mount(const boost::filesystem::path& mount_point);

/// What a mount's daemon is asked through, opened for reading: the merged file of an image, the
/// root of an export. Empty if the daemon is dead.
[[nodiscard]] core::FileDescriptor open_for_control(const Mounted& mounted);

/// What the daemon behind it says of itself. Nothing if it says nothing.
[[nodiscard]] std::optional<fuse::DaemonStatus> ask_daemon(const core::FileDescriptor& control);

/// A handle on the process `pid`; empty if it is gone. The number comes from the mount, which a
/// user may serve with a program of their own, so only a process of the mount's owner is believed:
/// or we could be made to wait for, or signal, any other.
[[nodiscard]] core::FileDescriptor hold_process(const Mounted& mounted, pid_t pid);

}  // namespace cowfs::cli
