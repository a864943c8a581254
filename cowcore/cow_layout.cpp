#include "cowcore/cow_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cowcore/errors.hpp"

namespace cowfs::core {
namespace {

/// The largest file offset is 2^63 - 1. Keeping sizes below a half of that leaves room for the
/// header, the bitmap and all rounding, so that nothing below can overflow.
constexpr std::uint64_t largest_backing = std::uint64_t{1} << 62;

constexpr std::uint64_t ceil_div(std::uint64_t value, std::uint64_t unit) {
  return value / unit + (value % unit != 0 ? 1 : 0);
}

}  // namespace

CowLayout compute_layout(const CowHeader& header, const std::string& file) {
  if (header.backing_size > largest_backing) {
    throw DamagedCow(file,
                     fmt::format("its header says {} bytes for the backing", header.backing_size),
                     "no file is that large; restore the COW from a copy");
  }
  const std::uint64_t unit = header.sector_size;
  CowLayout layout;
  layout.header_length = header_length(header.format);
  layout.backing_size = header.backing_size;
  layout.sectors = ceil_div(header.backing_size, sector_bytes);
  layout.merged_size = layout.sectors * sector_bytes;

  switch (header.format) {
    case HeaderFormat::v1:
    case HeaderFormat::v2:
      layout.bitmap_offset = layout.header_length;
      layout.bitmap_length = ceil_div(header.backing_size, unit) / 8;
      layout.data_offset = round_up(layout.bitmap_offset + layout.bitmap_length, unit);
      break;
    case HeaderFormat::v3:
    case HeaderFormat::v3_wide:
      layout.bitmap_offset = round_up(layout.header_length, header.alignment);
      layout.bitmap_length = ceil_div(ceil_div(header.backing_size, unit), 8);
      layout.data_offset = round_up(layout.bitmap_offset + layout.bitmap_length, header.alignment);
      break;
  }
  layout.sectors_with_bit = std::min(layout.sectors, layout.bitmap_length * 8);
  return layout;
}

}  // namespace cowfs::core
