// Who holds a lock on a file.
#pragma once

#include <string>

namespace cowfs::core {

/// Names the process that holds a lock on the open file `fd` which keeps us from an exclusive one,
/// as "linux.uml (pid 123)"; empty if the system does not tell (the process belongs to another
/// user, or lives in another PID namespace).
std::string lock_holder(int fd);

/// Whether somebody else holds an exclusive lock on the open file `fd`. Takes none itself, so it is
/// in nobody's way. Throws std::system_error.
bool is_locked_for_writing(int fd);

/// Whether somebody else holds a lock of any kind on it. Likewise.
bool is_locked(int fd);

}  // namespace cowfs::core
