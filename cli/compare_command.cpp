#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/command.hpp"
#include "cli/image_name.hpp"
#include "cli/progress_line.hpp"
#include "cowcore/backing.hpp"
#include "cowcore/compare_images.hpp"
#include "cowcore/human_units.hpp"

namespace cowfs::cli {
namespace {

struct CompareOptions {
  std::string a;
  std::string b;
  std::vector<std::string> raw;
  bool strict = false;
  bool json = false;
  bool quiet = false;
};

core::ComparedImage open(const std::string& image, const CompareOptions& options,
                         std::ostream& err) {
  const bool raw = std::ranges::find(options.raw, image) != options.raw.end();
  const auto [file, backing] =
      raw ? std::pair(boost::filesystem::path(image), std::optional<boost::filesystem::path>())
          : split_image(image);
  auto opened =
      core::open_compared(file, backing, raw ? core::ImageKind::raw : core::ImageKind::by_content);
  for (const auto& notice : opened.notices) fmt::print(err, "cowfs: {}\n", notice);
  return opened;
}

/// The keys are documented in cowfs-compare(1) and stay as they are.
nlohmann::ordered_json to_json(const CompareOptions& options, const core::ComparedImage& a,
                               const core::ComparedImage& b, const core::Comparison& comparison,
                               bool same) {
  const auto& first = comparison.first_difference;
  return {{"a", options.a},
          {"b", options.b},
          {"same", same},
          {"size_a", a.size},
          {"size_b", b.size},
          {"first_difference",
           first ? nlohmann::ordered_json(*first) : nlohmann::ordered_json(nullptr)},
          {"bytes_read", comparison.bytes_read}};
}

std::string to_text(const CompareOptions& options, const core::ComparedImage& a,
                    const core::ComparedImage& b, const core::Comparison& comparison, bool same) {
  if (comparison.first_difference) {
    const auto at = *comparison.first_difference;
    return fmt::format("{} and {} differ: first at byte {} (sector {})", options.a, options.b, at,
                       at / core::sector_bytes);
  }
  if (a.size == b.size) return fmt::format("{} and {} hold the same", options.a, options.b);
  const bool a_is_longer = a.size > b.size;
  return fmt::format("{} and {} {}; {} is {} longer, by zeros", options.a, options.b,
                     same ? "hold the same" : "differ in size only",
                     a_is_longer ? options.a : options.b,
                     core::human_size(a_is_longer ? a.size - b.size : b.size - a.size));
}

int compare(const CompareOptions& options, const Streams& streams) {
  for (const auto& raw : options.raw) {
    if (raw != options.a && raw != options.b) {
      throw UsageError(fmt::format("--raw {}: it is neither of the two images", raw));
    }
  }
  const auto a = open(options.a, options, streams.err);
  const auto b = open(options.b, options, streams.err);
  ProgressLine progress(streams.err, {.doing = "comparing",
                                      .file = options.a,
                                      .cancelled = {},
                                      .shown = progress_is_shown(options.quiet)});
  const auto comparison = core::compare_images(a, b, progress.callback());
  const bool same = !comparison.first_difference && (!options.strict || a.size == b.size);
  if (options.json) {
    streams.out << to_json(options, a, b, comparison, same)
                       .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
                << "\n";
  } else if (!options.quiet) {
    streams.out << to_text(options, a, b, comparison, same) << "\n";
  }
  return same ? exit_done : exit_failed;
}

}  // namespace

void add_compare_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<CompareOptions>();
  auto* command = app.add_subcommand("compare", "Tell whether two images hold the same");
  command
      ->add_option("A", options->a,
                   "COW, or COW,BACKING: the merged image; or a raw image: a file or block device")
      ->required();
  command->add_option("B", options->b, "The other image, likewise")->required();
  command->add_option("--raw", options->raw, "Take this one of them for a raw image")
      ->type_name("IMAGE")
      ->allow_extra_args(false);
  command->add_flag("--strict", options->strict, "Images of different sizes differ");
  command->add_flag("--json", options->json, "Print JSON");
  command->add_flag("--quiet,-q", options->quiet, "Print nothing: the exit status tells");
  command->footer("Exit status: 0 they hold the same, 1 they differ or the command has failed.");
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return compare(*options, streams); };
  });
}

}  // namespace cowfs::cli
