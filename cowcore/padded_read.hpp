// Reading what may lie past the end of a file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Fills `into` from `offset` on; what lies at or past `end`, or past the file's own end, is zeros.
inline void read_padded(const Storage& file, std::uint64_t offset, std::uint64_t end,
                        std::span<std::byte> into) {
  const auto present = offset >= end ? 0 : std::min<std::uint64_t>(into.size(), end - offset);
  const auto count = present == 0 ? 0 : file.read(offset, into.first(present));
  std::ranges::fill(into.subspan(count), std::byte{});
}

}  // namespace cowfs::core
