// Opening a file with another user's rights.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <memory>

#include "cowcore/posix_storage.hpp"

namespace cowfs::core {

/// Opens a file for reading as `user` could, with the groups that the user database gives: every
/// directory and symbolic link on the way is walked with the user's rights, in one go. Needs root.
///
/// Only the thread that does it, one of its own, changes its rights; the process keeps them.
/// Throws as PosixStorage::open does.
[[nodiscard]] std::unique_ptr<PosixStorage> open_for_reading_as(
    uid_t user, const boost::filesystem::path& path);

}  // namespace cowfs::core
