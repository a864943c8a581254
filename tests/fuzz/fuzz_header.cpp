// The first bytes of a file that claims to be a COW: parse_header, compute_layout, and back.
//
// The input is the file's first bytes as they are. Whatever they hold, they are refused with
// DamagedCow or give a header and a layout that everything after it can rely on.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/sector_map.hpp"
#include "tests/fuzz/require.hpp"

namespace cowfs::tests {
namespace {

constexpr const char* file_name = "cow";

/// What the code below the layout takes for granted.
void check_layout(const core::CowHeader& header, const core::CowLayout& layout) {
  constexpr auto largest_offset =
      static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  require(layout.backing_size == header.backing_size, "the layout has the header's size");
  require(layout.merged_size >= layout.backing_size &&
              layout.merged_size - layout.backing_size < core::sector_bytes &&
              layout.merged_size == layout.sectors * core::sector_bytes,
          "the merged image is the backing in whole sectors");
  require(layout.header_length == core::header_length(header.format) &&
              layout.header_length <= layout.bitmap_offset,
          "the bitmap comes after the header");
  require(layout.bitmap_length <= largest_offset &&
              layout.bitmap_offset + layout.bitmap_length <= layout.data_offset,
          "the data comes after the bitmap");
  require(layout.data_offset % core::sector_bytes == 0, "the data lies on sectors");
  require(layout.data_offset <= largest_offset &&
              layout.merged_size <= largest_offset - layout.data_offset,
          "the end of the data is a file offset");
  require(layout.sectors_with_bit <= layout.sectors, "only sectors have bits");
  require(layout.sectors_with_bit <= layout.bitmap_length * 8, "each bit is in the bitmap");
  require(header.sector_size != core::sector_bytes || layout.sectors - layout.sectors_with_bit < 8,
          "at most 7 sectors have no bit");
  require(core::SectorMap::words_for(layout) >= (layout.sectors_with_bit + 63) / 64,
          "each bit is in a word");
}

/// UML's format can't tell a V3 header without a path from a wide one.
bool is_ambiguous(const core::CowHeader& header) {
  return header.format == core::HeaderFormat::v3 && header.backing_path.empty();
}

void check_round_trip(const core::CowHeader& header) {
  const auto bytes = core::serialize_header(header);
  require(bytes.size() == core::header_length(header.format), "a header has its length");
  require(core::has_cow_magic(bytes), "a header has the magic");
  if (is_ambiguous(header)) return;
  const auto again = core::parse_header(bytes, file_name);
  require(again == header, "what is written is what was read");
  require(core::serialize_header(again) == bytes, "writing it again changes nothing");
}

void run(std::span<const std::byte> bytes) {
  core::CowHeader header;
  core::CowLayout layout;
  try {
    header = core::parse_header(bytes, file_name);
    layout = core::compute_layout(header, file_name);
  } catch (const core::DamagedCow& error) {
    require(std::string(error.what()).starts_with(file_name), "an error names the file");
    return;
  }
  require(core::has_cow_magic(bytes), "only a file with the magic is a COW");
  require(header.backing_path.size() <= core::longest_backing_path(header.format),
          "the path fits into the header");
  check_layout(header, layout);
  check_round_trip(header);

  // Nothing after the longest header is looked at.
  const auto prefix = bytes.first(std::min(bytes.size(), core::longest_header));
  require(core::parse_header(prefix, file_name) == header, "only the header is looked at");
}

}  // namespace
}  // namespace cowfs::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  cowfs::tests::run(std::as_bytes(std::span(data, size)));
  return 0;
}
