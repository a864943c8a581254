#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/command.hpp"
#include "cowcore/cow_info.hpp"
#include "cowcore/human_units.hpp"

namespace cowfs::cli {
namespace {

using core::human_size;
using core::human_time;

struct InfoOptions {
  std::string cow;
  bool json = false;
};

int version_of(core::HeaderFormat format) {
  switch (format) {
    case core::HeaderFormat::v1:
      return 1;
    case core::HeaderFormat::v2:
      return 2;
    case core::HeaderFormat::v3:
    case core::HeaderFormat::v3_wide:
      return 3;
  }
  return 0;
}

template <typename Value>
nlohmann::ordered_json or_null(const std::optional<Value>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

/// The keys are documented in cowfs-info(1) and stay as they are.
nlohmann::ordered_json to_json(const std::string& cow, const core::CowInfo& info) {
  return {
      {"cow", cow},
      {"layout", core::format_name(info.header.format)},
      {"version", version_of(info.header.format)},
      {"byte_order", info.header.magic_order == core::MagicOrder::big ? "big" : "little"},
      {"backing",
       {{"stored", info.header.backing_path},
        {"resolved", info.backing.string()},
        {"state", core::state_name(info.backing_state)},
        {"recorded_size", info.header.backing_size},
        {"present_size", or_null(info.present_size)},
        {"recorded_mtime", info.header.backing_mtime},
        {"present_mtime", or_null(info.present_mtime)}}},
      {"merged_size", info.layout.merged_size},
      {"sector_size", info.header.sector_size},
      {"alignment", info.header.alignment},
      {"bitmap_offset", info.layout.bitmap_offset},
      {"bitmap_length", info.layout.bitmap_length},
      {"data_offset", info.layout.data_offset},
      {"sectors", info.layout.sectors},
      {"sectors_without_bit", info.layout.sectors - info.layout.sectors_with_bit},
      {"sectors_in_cow", info.sectors_in_cow},
      {"bytes_in_cow", info.sectors_in_cow * core::sector_bytes},
      {"left_behind_sectors", info.left_behind},
      {"file_size", info.file_size},
      {"bytes_on_disk", info.allocated},
      {"in_use", info.in_use},
      {"user",
       info.user.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(info.user)},
  };
}

std::string present_state(const core::CowInfo& info) {
  switch (info.backing_state) {
    case core::BackingState::ok:
      return "ok";
    case core::BackingState::missing:
      return "missing";
    case core::BackingState::size_mismatch:
      return fmt::format("size-mismatch: it has {} now", human_size(*info.present_size));
    case core::BackingState::mtime_mismatch:
      return fmt::format("mtime-mismatch: it was changed at {}", human_time(*info.present_mtime));
  }
  return {};
}

void print_text(std::ostream& out, const std::string& cow, const core::CowInfo& info) {
  const auto row = [&out](const char* name, const std::string& value) {
    fmt::print(out, "{:<16}{}\n", name, value);
  };
  const auto& layout = info.layout;
  row("COW", cow);
  row("layout",
      fmt::format("{}{}", core::format_name(info.header.format),
                  info.header.magic_order == core::MagicOrder::big ? "" : ", little-endian magic"));
  row("backing", info.header.backing_path);
  if (info.backing.string() != info.header.backing_path) row("  resolved", info.backing.string());
  row("  state", present_state(info));
  row("  size", human_size(info.header.backing_size));
  row("  changed", human_time(info.header.backing_mtime));
  row("merged size", human_size(layout.merged_size));
  row("sector size",
      fmt::format("{}, alignment {}", info.header.sector_size, info.header.alignment));
  row("bitmap", fmt::format("{} bytes at {}", layout.bitmap_length, layout.bitmap_offset));
  row("data", fmt::format("at {}", layout.data_offset));
  if (!layout.every_sector_has_bit()) {
    row("without bit",
        fmt::format("the last {} sectors: read-only", layout.sectors - layout.sectors_with_bit));
  }
  row("in the COW", fmt::format("{} of {} sectors, {}", info.sectors_in_cow, layout.sectors,
                                human_size(info.sectors_in_cow * core::sector_bytes)));
  if (info.left_behind > 0) {
    row("left behind",
        fmt::format("{} written sectors, by a mount that was killed; mounting the COW "
                    "puts them on disk",
                    info.left_behind));
  }
  row("on disk", human_size(info.allocated));
  if (info.in_use) row("in use", info.user.empty() ? "yes" : "by " + info.user);
}

int show(const InfoOptions& options, std::ostream& out) {
  const auto info = core::inspect_cow(options.cow);
  if (options.json) {
    out << to_json(options.cow, info)
               .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
        << "\n";
  } else {
    print_text(out, options.cow, info);
  }
  return exit_done;
}

}  // namespace

void add_info_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<InfoOptions>();
  auto* command = app.add_subcommand("info", "Show what a COW file holds");
  command->add_option("COW", options->cow, "The COW file")->required();
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return show(*options, streams.out); };
  });
}

}  // namespace cowfs::cli
