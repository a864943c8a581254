// A merged image in a bounded number of equal cells, to draw it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cowcore/extent.hpp"

namespace cowfs::core {

/// How much of an image, or of a piece of it, comes from where; bytes.
struct SourceBytes {
  std::uint64_t cow = 0;
  std::uint64_t backing = 0;
  std::uint64_t zero = 0;

  void add(Source source, std::uint64_t bytes);
  [[nodiscard]] std::uint64_t sum() const { return cow + backing + zero; }

  bool operator==(const SourceBytes&) const = default;
};

/// The cells are of a power of two bytes (the last may be a part), as few bytes as `most_cells`
/// allows. Thread safety: as a container.
class ImageCells {
 public:
  /// `size` in bytes; `most_cells` at least 1.
  ImageCells(std::uint64_t size, std::size_t most_cells);

  /// The extent lies inside the image.
  void add(const Extent& extent);

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t cell_bytes() const { return cell_bytes_; }
  [[nodiscard]] const std::vector<SourceBytes>& cells() const { return cells_; }
  [[nodiscard]] const SourceBytes& total() const { return total_; }

 private:
  std::uint64_t size_;
  std::uint64_t cell_bytes_;
  std::vector<SourceBytes> cells_;
  SourceBytes total_;
};

}  // namespace cowfs::core
