// Giving back what a COW need not hold.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/progress.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

struct CompactResult {
  SectorCount kept = 0;                ///< sectors that are in the COW now
  SectorCount dropped = 0;             ///< sectors that held what the backing holds
  SectorCount zeroed = 0;              ///< sectors of zeros, that are in the COW as holes now
  std::uint64_t allocated_before = 0;  ///< bytes of the COW file on disk
  std::uint64_t allocated_after = 0;
  std::vector<std::string> notices;  ///< lines that the user should see
};

/// Drops the sectors of a COW that equal the backing's, if nothing else of their page (page_bytes)
/// is in the COW; makes those of zeros holes; and gives back the space of both, and of what lies
/// where no bit is set. The merged image stays the same, also at every moment: after a power loss,
/// an error or Cancelled it can simply be done again. Memory: under 2 MiB.
///
/// Throws what open_cow throws, Error if the COW may not be written, and what the progress function
/// throws.
[[nodiscard]] CompactResult compact_cow(const boost::filesystem::path& cow,
                                        const std::optional<boost::filesystem::path>& backing,
                                        const Progress& progress);

/// What compact_cow does to open files. Syncs. Fills in the sectors of the result.
[[nodiscard]] CompactResult compact_open_cow(Storage& cow, const Storage& backing,
                                             const CowLayout& layout, const Progress& progress);

}  // namespace cowfs::core
