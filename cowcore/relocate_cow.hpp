// Pointing a COW at its moved backing.
#pragma once

#include <boost/filesystem/path.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/pending_file.hpp"

namespace cowfs::core {

/// The backing has another time than the header says. Its content can't be verified: if that has
/// changed as well, to set the time back corrupts every COW on it.
struct MtimeDifference {
  std::string backing;
  std::uint32_t recorded = 0;  ///< seconds since 1970, by the header
  std::uint32_t present = 0;
};

/// Returns if the backing's time is to be set back; throws what the user gets to see if not.
using ConfirmRestore = std::function<void(const MtimeDifference&)>;

struct Relocation {
  std::string from;  ///< what the header named before
  std::string to;    ///< what it names now; may be the same
  bool mtime_restored = false;
  std::vector<std::string> notices;
};

/// Makes the header of `cow` name `backing`, in the layout that it has, if size and time are those
/// that it records. Puts what a killed mount has left on disk first. Nobody may use the COW.
///
/// With `confirm_restore`, a backing of another time is asked about, and its time set back to the
/// recorded one; then nobody else may use the backing either. That comes before the header: if it
/// is interrupted between the two, it can be done again.
///
/// Throws BackingMismatch, Busy, DamagedCow, Error (a path that is too long for the layout, a
/// pending file that the user has to decide about), std::system_error; then the header is as it
/// was.
[[nodiscard]] Relocation relocate_cow(
    const boost::filesystem::path& cow, const boost::filesystem::path& backing,
    const ConfirmRestore& confirm_restore = {},
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

}  // namespace cowfs::core
