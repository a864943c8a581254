#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/map_picture.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/extent_walk.hpp"
#include "cowcore/image_cells.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/open_cow.hpp"

namespace cowfs::cli {
namespace {

using Json = nlohmann::ordered_json;

struct MapOptions {
  std::string image;  ///< COW[,BACKING]
  bool json = false;
  bool picture = false;
  std::string svg;
  bool force = false;
};

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The keys are documented in cowfs-map(1) and stay as they are. An extent a line, printed as they
/// come: there may be millions.
void print_json(std::ostream& out, const std::string& cow, const core::OpenedCow& opened) {
  core::SourceBytes total;
  fmt::print(out, "{{\n  \"cow\": {},\n  \"size\": {},\n  \"extents\": [", dump(cow),
             opened.layout.merged_size);
  core::ExtentWalk walk(*opened.cow, *opened.backing, opened.layout);
  const char* separator = "\n    ";
  while (const auto extent = walk.next()) {
    total.add(extent->source, extent->length);
    fmt::print(out, "{}{{\"offset\": {}, \"length\": {}, \"where\": \"{}\"}}", separator,
               extent->offset, extent->length, core::source_name(extent->source));
    separator = ",\n    ";
  }
  fmt::print(out, "\n  ],\n  \"total\": {{\"cow\": {}, \"backing\": {}, \"zero\": {}}}\n}}\n",
             total.cow, total.backing, total.zero);
}

void print_table(std::ostream& out, const core::OpenedCow& opened) {
  fmt::print(out, "{:>20} {:>20} {}\n", "OFFSET", "LENGTH", "WHERE");
  core::ExtentWalk walk(*opened.cow, *opened.backing, opened.layout);
  while (const auto extent = walk.next()) {
    fmt::print(out, "{:>20} {:>20} {}\n", extent->offset, extent->length,
               core::source_name(extent->source));
  }
}

core::ImageCells cells_of(const core::OpenedCow& opened, std::size_t most) {
  core::ImageCells cells(opened.layout.merged_size, most);
  core::ExtentWalk walk(*opened.cow, *opened.backing, opened.layout);
  while (const auto extent = walk.next()) cells.add(*extent);
  return cells;
}

void write_svg(const MapOptions& options, const std::string& title, const core::OpenedCow& opened) {
  const auto if_exists = options.force ? core::IfExists::replace : core::IfExists::refuse;
  const auto place = core::choose_output(options.svg, if_exists,
                                         {{opened.cow->status().identity, "the COW"},
                                          {opened.backing->status().identity, "the backing"}});
  std::ostringstream svg;
  print_svg(svg, title, cells_of(opened, most_svg_cells));
  const auto text = std::move(svg).str();
  core::NewFile file(place.file, 0666);
  file.file().write(0, std::as_bytes(std::span(text)));
  file.file().sync();
  file.publish(if_exists);
}

int map(const MapOptions& options, const Streams& streams) {
  const auto [cow, backing] = split_image(options.image);
  const auto opened = core::open_cow(cow, backing, core::Access::read_only);
  for (const auto& notice : opened.notices) fmt::print(streams.err, "cowfs: {}\n", notice);
  if (!options.svg.empty()) write_svg(options, cow.string(), opened);
  if (options.picture) {
    const auto style = style_of_stdout();
    print_picture(streams.out, cow.string(), cells_of(opened, most_cells(style)), style);
  } else if (options.json) {
    print_json(streams.out, cow.string(), opened);
  } else if (options.svg.empty()) {
    print_table(streams.out, opened);
  }
  streams.out.flush();
  if (!streams.out) throw core::Error("standard output", "cannot write");
  return exit_done;
}

}  // namespace

void add_map_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<MapOptions>();
  auto* command = app.add_subcommand("map", "Show what of a merged image comes from where");
  command
      ->add_option("COW", options->image,
                   "COW, or COW,BACKING if the backing is not where the COW says")
      ->required();
  auto* json = command->add_flag("--json", options->json, "Print JSON");
  command->add_flag("--picture", options->picture, "Draw a picture")->excludes(json);
  command->add_option("--svg", options->svg, "Draw a picture into this file")->type_name("FILE");
  command->add_flag("--force", options->force, "Replace an existing SVG file");
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return map(*options, streams); };
  });
}

}  // namespace cowfs::cli
