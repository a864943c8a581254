// The words for what is where in a merged image.
#pragma once

#include <cstdint>

#include "cowcore/sector.hpp"

namespace cowfs::core {

/// Where a piece of the merged image comes from.
enum class Source {
  cow,      ///< data in the COW
  backing,  ///< data in the backing
  zero,     ///< a hole of the one or the other
};

/// "cow", "backing", "zero".
[[nodiscard]] constexpr const char* source_name(Source source) {
  switch (source) {
    case Source::cow:
      return "cow";
    case Source::backing:
      return "backing";
    case Source::zero:
      return "zero";
  }
  return "unknown";
}

/// A piece of the merged image, in bytes.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  Source source = Source::zero;

  bool operator==(const Extent&) const = default;
};

/// Sectors in a row.
struct SectorRange {
  SectorNumber first = 0;
  SectorCount count = 0;

  [[nodiscard]] SectorNumber end() const { return first + count; }
  bool operator==(const SectorRange&) const = default;
};

}  // namespace cowfs::core
