// What a killed daemon has left: the bits of a pending file, put on disk by whoever opens the COW
// next.
//
// The bits are only right for the very file, and the very content, that they were made for. A COW
// that was written after the daemon's last write was written by somebody else (a UML, say) who
// never saw these bits: to apply them then would bring old writes back. Such a COW is refused until
// the user chooses.
#pragma once

#include <boost/filesystem/path.hpp>
#include <string>

#include "cowcore/cow_description.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// What a killed daemon has left for a COW.
struct LeftBehind {
  enum class State {
    nothing,
    applicable,  ///< bits that are still to be put on disk
    stale,       ///< of another boot, or another file: worth nothing
    conflict,    ///< the COW was written by somebody else since
    failed,      ///< a sync had failed: data that the bits point at may be lost
    damaged,     ///< no pending file, or not whole
  };
  State state = State::nothing;
  std::string why;               ///< for a person; empty if nothing is wrong
  SectorCount sectors = 0;       ///< bits that are pending
  boost::filesystem::path file;  ///< empty if there is none
};

/// Looks for what was left behind for a COW that nobody uses. Changes nothing.
/// Throws std::system_error, and Error for a directory that somebody else can write.
[[nodiscard]] LeftBehind find_left_behind(const boost::filesystem::path& directory,
                                          const PosixStorage& cow,
                                          const CowDescription& description);

/// Puts the pending bits on disk (data first, then bits, both synced) and removes the file. The COW
/// is open for writing and locked. Applies bits in conflict, and those of a failed sync: the caller
/// has decided. Throws Error if there are none that are this COW's, and std::system_error: then the
/// file is still there. Can be done again after an error or a kill; after a failed sync it takes a
/// decision again.
void apply_left_behind(const LeftBehind& left, Storage& cow, const CowDescription& description);

void drop_left_behind(const LeftBehind& left);

/// What every open of a COW under its lock does: applies what can be applied and drops what is
/// stale; returns a line for the user, or nothing. Throws Error for what the user has to decide,
/// and for what a read-only open can't apply.
[[nodiscard]] std::string settle_left_behind(const boost::filesystem::path& directory,
                                             PosixStorage& cow, const CowDescription& description,
                                             Access access);

}  // namespace cowfs::core
