// What the first bytes of a COW file say, read from and written to the file.
#pragma once

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

struct CowDescription {
  CowHeader header;
  CowLayout layout;
};

/// Reads header and layout, and checks that the file is long enough for its bitmap.
/// Throws DamagedCow.
[[nodiscard]] CowDescription describe_cow(const Storage& cow);

/// Replaces the header of a COW by one of the same layout, with one write of what differs, and
/// syncs.
void rewrite_header(Storage& cow, const CowHeader& header);

}  // namespace cowfs::core
