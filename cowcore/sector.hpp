// The unit of the COW format.
#pragma once

#include <bit>
#include <cstdint>

namespace cowfs::core {

/// The number of a 512-byte sector of the merged image.
using SectorNumber = std::uint64_t;
/// How many sectors.
using SectorCount = std::uint64_t;

/// The granularity of the bitmap, in bytes. UML does 512-byte I/O whatever the header's sector size
/// says, so this is a constant of the format.
inline constexpr std::uint64_t sector_bytes = 512;

/// A word of the bitmap as it is in the file, as a number whose lowest bit is the first sector: the
/// bytes of the bitmap, lowest first, are those of a little-endian word. And the reverse.
constexpr std::uint64_t swap_if_big(std::uint64_t word) {
  if constexpr (std::endian::native == std::endian::big) return __builtin_bswap64(word);
  return word;
}

/// A real UML reads wrong data where a page of the image has some sectors in the COW and others in
/// the backing. So what chooses sectors by itself, takes or leaves whole pages.
inline constexpr std::uint64_t page_bytes = 4096;

/// `value` rounded up to a multiple of `unit`; the caller has made sure that it does not overflow.
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}

}  // namespace cowfs::core
