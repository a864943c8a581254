#include "cowcore/human_units.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <cstddef>

namespace cowfs::core {
namespace {

/// Of 1 KiB and more.
std::string scaled(std::uint64_t bytes) {
  static constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, units.at(unit));
}

}  // namespace

std::string short_size(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  auto text = scaled(bytes);
  if (const auto zero = text.find(".0 "); zero != std::string::npos) text.erase(zero, 2);
  return text;
}

std::string human_size(std::uint64_t bytes) {
  if (bytes < 1024) return short_size(bytes);
  return fmt::format("{} ({} bytes)", scaled(bytes), bytes);
}

std::string human_time(std::uint32_t seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(std::time_t{seconds}));
}

}  // namespace cowfs::core
