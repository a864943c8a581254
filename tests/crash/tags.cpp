#include "tests/crash/tags.hpp"

#include <fmt/format.h>

#include <array>
#include <cstring>

namespace cowfs::tests {
namespace {

constexpr unsigned kind_shift = 56;
constexpr unsigned event_shift = 28;
constexpr std::uint64_t number_mask = (std::uint64_t{1} << event_shift) - 1;

}  // namespace

std::uint64_t word_of(const Tag& tag) {
  if (tag.kind == TagKind::zeros) return 0;
  return static_cast<std::uint64_t>(tag.kind) << kind_shift |
         std::uint64_t{tag.event} << event_shift | tag.cell;
}

std::string describe_word(std::uint64_t word) {
  static constexpr std::array kinds{"zeros", "backing", "old content of the COW",
                                    "garbage of the data area", "written by event"};
  const auto kind = word >> kind_shift;
  if (word == 0) return "zeros";
  if (kind >= kinds.size()) return fmt::format("unknown {:016x}", word);
  const auto cell = word & number_mask;
  const auto event = word >> event_shift & number_mask;
  return fmt::format("sector {} cell {}: {}{}", cell / cells_per_sector, cell % cells_per_sector,
                     kinds.at(kind), event == 0 ? "" : fmt::format(" {}", event));
}

void fill_cells(std::span<std::byte> bytes, std::uint64_t first_cell, TagKind kind,
                std::uint32_t event) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    const auto word = word_of({kind, event, first_cell + at / cell_bytes});
    std::memcpy(&bytes[at], &word, sizeof word);
  }
}

std::optional<std::uint64_t> read_cell(std::span<const std::byte> cell) {
  std::array<std::uint64_t, cell_bytes / 8> words;
  std::memcpy(words.data(), cell.data(), cell_bytes);
  for (const auto word : words) {
    if (word != words[0]) return std::nullopt;
  }
  return words[0];
}

}  // namespace cowfs::tests
