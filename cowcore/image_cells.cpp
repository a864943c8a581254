#include "cowcore/image_cells.hpp"

#include <algorithm>

#include "cowcore/sector.hpp"

namespace cowfs::core {
namespace {

std::uint64_t cells_for(std::uint64_t size, std::uint64_t cell_bytes) {
  return size / cell_bytes + (size % cell_bytes != 0 ? 1 : 0);
}

std::uint64_t choose_cell(std::uint64_t size, std::size_t most_cells) {
  auto bytes = sector_bytes;
  while (cells_for(size, bytes) > most_cells) bytes *= 2;
  return bytes;
}

}  // namespace

void SourceBytes::add(Source source, std::uint64_t bytes) {
  switch (source) {
    case Source::cow:
      cow += bytes;
      break;
    case Source::backing:
      backing += bytes;
      break;
    case Source::zero:
      zero += bytes;
      break;
  }
}

ImageCells::ImageCells(std::uint64_t size, std::size_t most_cells)
    : size_(size),
      cell_bytes_(choose_cell(size, most_cells)),
      cells_(cells_for(size, cell_bytes_)) {}

void ImageCells::add(const Extent& extent) {
  total_.add(extent.source, extent.length);
  const auto end = extent.offset + extent.length;
  for (auto at = extent.offset; at < end;) {
    const auto cell = at / cell_bytes_;
    const auto piece_end = std::min(end, (cell + 1) * cell_bytes_);
    cells_[cell].add(extent.source, piece_end - at);
    at = piece_end;
  }
}

}  // namespace cowfs::core
