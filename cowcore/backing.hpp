// The backing that a COW names: finding it, and telling whether it is still the same.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "cowcore/cow_header.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

enum class BackingState {
  ok,
  missing,        ///< no file there, or it can't be looked at
  size_mismatch,  ///< looked at first, as UML does
  mtime_mismatch,
};

/// "ok", "missing", "size-mismatch", "mtime-mismatch".
[[nodiscard]] const char* state_name(BackingState state);

/// Compares what a COW's header records with what is there. The header has 32 bits for the mtime's
/// whole seconds; no more than that is compared.
[[nodiscard]] BackingState compare_backing(const CowHeader& header, const FileStatus& found);

/// Throws BackingMismatch, with both values and what to do, unless they match. `cow` and `backing`
/// are the names that the message gives.
void require_match(const CowHeader& header, const FileStatus& found, const std::string& cow,
                   const std::string& backing);

/// The mtime that a header records for a backing.
[[nodiscard]] std::uint32_t header_mtime(const FileStatus& backing);

/// The path that a header stores for a backing: absolute, with the symbolic links in its directory
/// part resolved and the last component kept as given (as UML and uml_mkcow do).
[[nodiscard]] boost::filesystem::path stored_path(const boost::filesystem::path& backing);

/// Where a path that a header stores leads. A relative one starts at the working directory of the
/// process, as in UML.
[[nodiscard]] boost::filesystem::path resolve_stored(const std::string& stored);

}  // namespace cowfs::core
