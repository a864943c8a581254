// Making an empty COW.
#pragma once

#include <boost/filesystem/path.hpp>

#include "cowcore/cow_header.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Makes an empty V3 COW for `backing`, byte for byte what uml_mkcow makes, and syncs it. The file
/// appears under its name only when it is whole; one that it replaces is there until then. Only a
/// COW that nobody uses, or an empty file, is replaced: anything else is refused.
/// Throws Error, BackingMismatch (the backing is not there), Busy, std::system_error; then nothing
/// has changed.
void create_cow(const boost::filesystem::path& cow, const boost::filesystem::path& backing,
                IfExists if_exists);

/// The header of a V3 COW for a backing as it is now. `cow` is the name that errors give. Throws
/// Error if the backing's path is too long.
[[nodiscard]] CowHeader header_for_backing(const boost::filesystem::path& cow,
                                           const boost::filesystem::path& backing,
                                           const FileStatus& status);

/// What create_cow does to the file before it gets its name: makes an empty file an empty COW, and
/// syncs it. Throws DamagedCow for sizes that no file can have, and std::system_error.
void write_empty_cow(Storage& file, const CowHeader& header);

}  // namespace cowfs::core
