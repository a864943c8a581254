// What the command asks of a running mount: an ioctl on the merged file.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace cowfs::fuse {

struct DaemonStatus {
  std::uint32_t version;  ///< of this structure: 1
  std::int32_t pid;       ///< the process that ends last: the supervisor, in its own PID namespace
  std::int32_t worker;    ///< the process that serves
  std::int32_t replaceable;  ///< 1 if the supervisor can replace the worker
};

inline constexpr std::uint32_t daemon_status_version = 1;
inline constexpr unsigned long get_daemon_status = _IOR('c', 0xc0, DaemonStatus);

}  // namespace cowfs::fuse
