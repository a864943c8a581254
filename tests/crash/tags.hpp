// Content that tells where it comes from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "cowcore/sector.hpp"

namespace cowfs::tests {

/// The merged image is cut into cells of 64 bytes, 8 to a sector. Every write covers whole cells,
/// and every cell says what it is and which cell it belongs to: content of another time or place is
/// told from the right one, and half a cell from a whole one.
inline constexpr std::uint64_t cell_bytes = 64;
inline constexpr std::uint64_t cells_per_sector = core::sector_bytes / cell_bytes;

enum class TagKind : std::uint8_t {
  zeros,    ///< a hole, or zeroed
  backing,  ///< content of the backing
  old_cow,  ///< what was in the COW at the beginning
  garbage,  ///< lies in the COW's data area, but no bit points at it
  written,  ///< by the event of that number
};

struct Tag {
  TagKind kind = TagKind::zeros;
  std::uint32_t event = 0;
  std::uint64_t cell = 0;
};

/// One of the 8 words of a cell, which are all the same. 0 for zeros.
[[nodiscard]] std::uint64_t word_of(const Tag& tag);
/// "sector 5 cell 3: written by event 7".
[[nodiscard]] std::string describe_word(std::uint64_t word);

/// Fills whole cells, the first of them `first_cell`.
void fill_cells(std::span<std::byte> bytes, std::uint64_t first_cell, TagKind kind,
                std::uint32_t event = 0);

/// The word of a cell; nothing if its words differ.
[[nodiscard]] std::optional<std::uint64_t> read_cell(std::span<const std::byte> cell);

}  // namespace cowfs::tests
