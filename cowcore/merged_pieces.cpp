#include "cowcore/merged_pieces.hpp"

#include <algorithm>

#include "cowcore/sector.hpp"

namespace cowfs::core {
namespace {

/// To find out whether so many sectors are a hole costs more than to read them.
constexpr SectorCount short_run = 128;

}  // namespace

MergedPiece MergedPieces::at(std::uint64_t offset) {
  const auto first = offset / sector_bytes;
  const auto begin = bitmap_.run(first, std::min(short_run + 1, layout_.sectors - first));
  if (begin.in_cow && begin.length <= short_run) {
    return {offset, begin.length * sector_bytes, true, MergedPiece::Content::unknown};
  }
  return known_at(offset);
}

MergedPiece MergedPieces::known_at(std::uint64_t offset) {
  const auto first = offset / sector_bytes;
  // The file is asked before the whole run is looked for: what it says bounds that search, which
  // would else go to the end of the run for each of the pieces in it.
  const bool in_cow = bitmap_.run(first, 1).in_cow;
  const auto file = (in_cow ? cow_ : backing_).at(offset);
  const auto limit = (std::min(file.end, layout_.merged_size) - 1) / sector_bytes + 1;
  const auto run = bitmap_.run(first, limit - first);
  return {offset, run.length * sector_bytes, in_cow,
          file.is_data ? MergedPiece::Content::data : MergedPiece::Content::hole};
}

MergedPiece MergedPieces::next_in_cow(std::uint64_t offset) {
  while (offset < layout_.merged_size) {
    const auto first = offset / sector_bytes;
    const auto run = bitmap_.run(first, layout_.sectors - first);
    if (run.in_cow) return at(offset);
    offset += run.length * sector_bytes;
  }
  return {layout_.merged_size, 0, false, MergedPiece::Content::hole};
}

}  // namespace cowfs::core
