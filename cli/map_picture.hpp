// What is where in a merged image, as a picture.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>

#include "cowcore/image_cells.hpp"

namespace cowfs::cli {

/// What a terminal can show.
struct PictureStyle {
  std::size_t width = 80;   ///< characters in a line
  std::size_t height = 24;  ///< lines
  bool colour = false;
  bool utf8 = false;
};

/// The style for standard output: of its terminal if it is one (with NO_COLOR and TERM heeded), of
/// COLUMNS and the locale if not.
[[nodiscard]] PictureStyle style_of_stdout();

/// How many characters make a row of cells in that width.
[[nodiscard]] std::size_t columns_in(const PictureStyle& style);
/// As many cells as a picture may have.
[[nodiscard]] std::size_t most_cells(const PictureStyle& style);

/// Draws the cells as text: rows with the offset at which they begin, and a legend.
void print_picture(std::ostream& out, const std::string& title, const core::ImageCells& cells,
                   const PictureStyle& style);

inline constexpr std::size_t svg_columns = 128;
inline constexpr std::size_t most_svg_cells = svg_columns * 64;

/// Draws the cells as an SVG document.
void print_svg(std::ostream& out, const std::string& title, const core::ImageCells& cells);

}  // namespace cowfs::cli
