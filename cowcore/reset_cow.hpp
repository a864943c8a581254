// Forgetting all changes.
#pragma once

#include <boost/filesystem/path.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cowfs::core {

/// Makes a COW empty again, in its own layout; its space is free then. It has to match its backing,
/// the one that the header names or the one given. An empty COW takes the old one's place, with its
/// mode and owner: after a power loss at any moment there is the one or the other, whole.
/// Returns lines that the user should see.
///
/// Throws Busy, DamagedCow, BackingMismatch, Error (also if the file has other names: these would
/// keep the old COW) and std::system_error; then nothing has changed.
std::vector<std::string> reset_cow(const boost::filesystem::path& cow,
                                   const std::optional<boost::filesystem::path>& backing);

}  // namespace cowfs::core
