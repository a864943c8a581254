// Where the bitmap and the data of a COW file lie.
#pragma once

#include <cstdint>
#include <string>

#include "cowcore/cow_header.hpp"
#include "cowcore/sector.hpp"

namespace cowfs::core {

/// Offsets and lengths are bytes of the COW file unless said otherwise.
///
/// Bit i of the bitmap is byte i/8, mask 1 << (i % 8). Set: sector i is in the COW, at data_offset
/// + 512 * i. Clear: it is in the backing, at 512 * i.
struct CowLayout {
  std::uint64_t header_length = 0;
  std::uint64_t bitmap_offset = 0;
  std::uint64_t bitmap_length = 0;
  std::uint64_t data_offset = 0;
  std::uint64_t backing_size = 0;  ///< bytes of the backing
  std::uint64_t merged_size = 0;   ///< bytes of the merged image: whole sectors
  SectorCount sectors = 0;         ///< of the merged image

  /// Sectors that have a bit. V1 and V2 round their bitmap's length down, so that up to 7 sectors
  /// at the end have none: those always read from the backing, and can't be written.
  SectorCount sectors_with_bit = 0;

  [[nodiscard]] bool every_sector_has_bit() const { return sectors_with_bit == sectors; }

  bool operator==(const CowLayout&) const = default;
};

/// Computes the layout from a header whose sector size and alignment are powers of two of at least
/// 512. Throws DamagedCow, naming `file`, if the sizes overflow what a file can hold.
[[nodiscard]] CowLayout compute_layout(const CowHeader& header, const std::string& file);

}  // namespace cowfs::core
