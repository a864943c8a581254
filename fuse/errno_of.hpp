// The one place at the edge to FUSE where an exception becomes an errno.
#pragma once

#include <cerrno>
#include <new>
#include <system_error>

namespace cowfs::fuse {

/// Runs `action`; returns 0, or the errno of what it threw.
template <typename Action>
int errno_of(Action&& action) noexcept {
  try {
    action();
    return 0;
  } catch (const std::system_error& error) {
    return error.code().value() > 0 ? error.code().value() : EIO;
  } catch (const std::bad_alloc&) {
    return ENOMEM;
  } catch (...) {
    return EIO;
  }
}

}  // namespace cowfs::fuse
