#include "cli/map_picture.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <ostream>
#include <string_view>

#include "cowcore/human_units.hpp"

namespace cowfs::cli {
namespace {

using core::SourceBytes;

constexpr std::size_t label_width = 10;
constexpr std::size_t lines_around = 5;  // title, legend, prompt

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : value;
}

bool locale_is_utf8() {
  for (const auto* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const auto value = variable(name);
    if (value.empty()) continue;
    return value.find("UTF-8") != value.npos || value.find("utf8") != value.npos;
  }
  return false;
}

// Text

enum class Colour { none, cow, backing };

struct Glyph {
  std::string_view text;
  Colour colour;
};

/// However little of a cell is in the COW, that shows.
Glyph glyph_of(const SourceBytes& cell, bool utf8) {
  static constexpr std::array<std::string_view, 4> shades{"░", "▒", "▓", "█"};
  static constexpr std::array<std::string_view, 4> letters{"-", "+", "*", "#"};
  if (cell.cow > 0) {
    const auto quarter = std::min<std::uint64_t>(3, cell.cow / (cell.sum() / 4 + 1));
    return {utf8 ? shades.at(quarter) : letters.at(quarter), Colour::cow};
  }
  if (cell.backing > 0) return {utf8 ? "·" : ".", Colour::backing};
  return {" ", Colour::none};
}

/// Changes the colour of what is printed, where there is colour.
class Brush {
 public:
  Brush(std::ostream& out, bool colour) : out_(out), has_colour_(colour) {}

  void use(Colour colour) {
    if (!has_colour_ || colour == colour_) return;
    colour_ = colour;
    out_ << (colour == Colour::cow       ? "\033[0;33m"
             : colour == Colour::backing ? "\033[0;36m"
                                         : "\033[0m");
  }

  void draw(const Glyph& glyph) {
    // A blank has no colour of its own.
    if (glyph.text != " ") use(glyph.colour);
    out_ << glyph.text;
  }

 private:
  std::ostream& out_;
  bool has_colour_;
  Colour colour_ = Colour::none;
};

void print_legend(std::ostream& out, Brush& brush, const core::ImageCells& cells, bool utf8) {
  const auto& total = cells.total();
  const auto entry = [&](Glyph glyph, const char* name, std::uint64_t bytes) {
    brush.draw(glyph);
    brush.use(Colour::none);
    fmt::print(out, " {} {}   ", name, core::short_size(bytes));
  };
  entry({utf8 ? "░▒▓█" : "-+*#", Colour::cow}, "in the COW", total.cow);
  entry({utf8 ? "·" : ".", Colour::backing}, "in the backing", total.backing);
  fmt::print(out, "blank: zero {}\n", core::short_size(total.zero));
}

// SVG

constexpr std::size_t svg_cell = 7;
constexpr std::size_t svg_left = 90;
constexpr std::size_t svg_top = 74;

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 32 ? '?' : c;
    }
  }
  return result;
}

/// A class of the style sheet; "" where nothing is drawn.
std::string svg_class(const SourceBytes& cell) {
  if (cell.cow > 0) {
    return fmt::format("c{}", std::min<std::uint64_t>(3, cell.cow / (cell.sum() / 4 + 1)));
  }
  return cell.backing > 0 ? "b" : "";
}

std::string svg_tip(const core::ImageCells& cells, std::size_t first, std::size_t end) {
  SourceBytes sum;
  for (auto i = first; i < end; ++i) {
    const auto& cell = cells.cells()[i];
    sum.cow += cell.cow;
    sum.backing += cell.backing;
    sum.zero += cell.zero;
  }
  return fmt::format(
      "from {} to {}: COW {}, backing {}, zero {}", core::short_size(first * cells.cell_bytes()),
      core::short_size(std::min(cells.size(), end * cells.cell_bytes())), core::short_size(sum.cow),
      core::short_size(sum.backing), core::short_size(sum.zero));
}

/// A row, with neighbours that look alike as one rectangle.
void print_svg_row(std::ostream& out, const core::ImageCells& cells, std::size_t row) {
  const auto begin = row * svg_columns;
  const auto end = std::min(cells.cells().size(), begin + svg_columns);
  const auto y = svg_top + row * svg_cell;
  if (row % 4 == 0) {
    fmt::print(out, "<text class=\"l\" x=\"{}\" y=\"{}\">{}</text>\n", svg_left - 6, y + svg_cell,
               core::short_size(begin * cells.cell_bytes()));
  }
  for (auto first = begin; first < end;) {
    const auto look = svg_class(cells.cells()[first]);
    auto last = first + 1;
    while (last < end && svg_class(cells.cells()[last]) == look) ++last;
    if (!look.empty()) {
      fmt::print(out,
                 "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title>"
                 "</rect>\n",
                 look, svg_left + (first - begin) * svg_cell, y, (last - first) * svg_cell,
                 svg_cell, svg_tip(cells, first, last));
    }
    first = last;
  }
}

void print_svg_legend(std::ostream& out, const core::ImageCells& cells) {
  const auto& total = cells.total();
  auto x = svg_left;
  const auto entry = [&](std::initializer_list<const char*> looks, const std::string& text) {
    for (const auto* look : looks) {
      fmt::print(out, "<rect class=\"{}\" x=\"{}\" y=\"48\" width=\"12\" height=\"12\"/>\n", look,
                 x);
      x += 12;
    }
    fmt::print(out, "<text x=\"{}\" y=\"58\">{}</text>\n", x + 6, text);
    x += 22 + text.size() * 7;
  };
  entry({"c0", "c1", "c2", "c3"}, "in the COW: " + core::short_size(total.cow));
  entry({"b"}, "in the backing: " + core::short_size(total.backing));
  entry({"z"}, "zero: " + core::short_size(total.zero));
}

}  // namespace

PictureStyle style_of_stdout() {
  PictureStyle style;
  style.utf8 = locale_is_utf8();
  const auto columns = variable("COLUMNS");
  std::from_chars(columns.data(), columns.data() + columns.size(), style.width);
  if (::isatty(STDOUT_FILENO) == 0) return style;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    style.width = size.ws_col;
    style.height = size.ws_row;
  }
  style.colour =
      variable("NO_COLOR").empty() && variable("TERM") != "dumb" && !variable("TERM").empty();
  return style;
}

std::size_t columns_in(const PictureStyle& style) {
  const auto room = style.width > label_width + 2 ? style.width - label_width - 2 : 1;
  return std::bit_floor(std::clamp<std::size_t>(room, 8, 256));
}

std::size_t most_cells(const PictureStyle& style) {
  const auto room = style.height > lines_around ? style.height - lines_around : 1;
  return columns_in(style) * std::bit_floor(std::clamp<std::size_t>(room, 8, 64));
}

void print_picture(std::ostream& out, const std::string& title, const core::ImageCells& cells,
                   const PictureStyle& style) {
  fmt::print(out, "{}: {}, {} for each character\n", title, core::short_size(cells.size()),
             core::short_size(cells.cell_bytes()));
  Brush brush(out, style.colour);
  const auto* const edge = style.utf8 ? "│" : "|";
  const auto columns = columns_in(style);
  const auto& all = cells.cells();
  for (std::size_t row = 0; row < all.size(); row += columns) {
    fmt::print(out, "{:>{}}{}", core::short_size(row * cells.cell_bytes()), label_width, edge);
    const auto end = std::min(all.size(), row + columns);
    for (auto i = row; i < end; ++i) brush.draw(glyph_of(all[i], style.utf8));
    brush.use(Colour::none);
    out << edge << "\n";
  }
  print_legend(out, brush, cells, style.utf8);
}

void print_svg(std::ostream& out, const std::string& title, const core::ImageCells& cells) {
  const auto rows = (cells.cells().size() + svg_columns - 1) / svg_columns;
  const auto grid_width = svg_columns * svg_cell;
  const auto width = svg_left + grid_width + 20;
  const auto height = svg_top + rows * svg_cell + 20;
  fmt::print(out,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
             "height=\"{1}\" role=\"img\">\n<title>{2}</title>\n"
             "<style>text{{font:12px sans-serif;fill:#222}}.t{{font-size:16px;font-weight:bold}}"
             ".l{{text-anchor:end;font-size:10px;fill:#666}}.b{{fill:#9db8d9}}.z{{fill:#eef0f2}}"
             ".c0{{fill:#f7b267}}.c1{{fill:#f4845f}}.c2{{fill:#e2502e}}.c3{{fill:#b3200e}}"
             "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
             width, height, escaped(title));
  fmt::print(out, "<text class=\"t\" x=\"{}\" y=\"28\">{}: {}, {} for each square</text>\n",
             svg_left, escaped(title), core::short_size(cells.size()),
             core::short_size(cells.cell_bytes()));
  print_svg_legend(out, cells);
  const auto last_row = cells.cells().size() % svg_columns;
  const auto whole_rows = rows - (last_row != 0 ? 1 : 0);
  const auto ground = [&](std::size_t row, std::size_t count, std::size_t columns) {
    if (count == 0) return;
    fmt::print(out, "<rect class=\"z\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", svg_left,
               svg_top + row * svg_cell, columns * svg_cell, count * svg_cell);
  };
  ground(0, whole_rows, svg_columns);
  ground(whole_rows, rows - whole_rows, last_row);
  for (std::size_t row = 0; row < rows; ++row) print_svg_row(out, cells, row);
  out << "</svg>\n";
}

}  // namespace cowfs::cli
