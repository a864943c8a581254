// What a COW file holds.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "cowcore/backing.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"

namespace cowfs::core {

struct CowInfo {
  CowHeader header;
  CowLayout layout;
  boost::filesystem::path backing;  ///< the header's path, made absolute
  BackingState backing_state = BackingState::missing;
  std::optional<std::uint64_t> present_size;  ///< of the backing, if it is there
  std::optional<std::uint32_t> present_mtime;
  SectorCount sectors_in_cow = 0;
  std::uint64_t file_size = 0;  ///< of the COW file, bytes
  std::uint64_t allocated = 0;  ///< bytes that the COW file takes on disk
  SectorCount left_behind = 0;  ///< written sectors that a killed mount has left (pending_file.hpp)
  bool in_use = false;          ///< somebody has it open for writing; the counts may lag behind
  std::string user;             ///< who that is, where the system tells
};

/// Looks at a COW without changing it, also while it is in use. Quick on a large sparse one: holes
/// of the bitmap are not read. Throws DamagedCow, std::system_error.
[[nodiscard]] CowInfo inspect_cow(const boost::filesystem::path& cow);

}  // namespace cowfs::core
