#include "tests/crash/history.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

namespace cowfs::tests {

std::uint32_t History::begin(std::uint64_t first_cell, std::uint64_t end_cell, bool zeros,
                             std::uint64_t moment) {
  const std::lock_guard guard(mutex_);
  events_.push_back({first_cell, end_cell, zeros, moment, never, never});
  return static_cast<std::uint32_t>(events_.size() - 1);
}

void History::end(std::uint32_t event, std::uint64_t moment) {
  const std::lock_guard guard(mutex_);
  events_.at(event).ended = moment;
}

void History::flushed(std::uint64_t began, std::uint64_t ended) {
  const std::lock_guard guard(mutex_);
  flushes_.push_back({began, ended});
}

void History::finish() {
  for (std::uint32_t id = 1; id < events_.size(); ++id) {
    auto& event = events_[id];
    for (const auto& flush : flushes_) {
      if (event.ended < flush.began) event.durable = std::min(event.durable, flush.ended);
    }
    for (auto cell = event.first_cell; cell < event.end_cell; ++cell) {
      auto& contents = contents_[cell];
      if (contents.empty()) contents.push_back({0, never});
      contents.push_back({id, never});
    }
  }
  for (auto& [cell, contents] : contents_) {
    for (auto& content : contents) {
      for (const auto& other : contents) {
        if (!came_before(events_[content.event], events_[other.event])) continue;
        content.superseded = std::min(content.superseded, events_[other.event].durable);
      }
    }
  }
}

std::vector<core::SectorNumber> History::sectors() const {
  std::set<core::SectorNumber> found;
  for (const auto& [cell, unused] : contents_) found.insert(cell / cells_per_sector);
  return {found.begin(), found.end()};
}

std::uint64_t History::word_in(const Content& content, std::uint64_t cell) const {
  if (content.event == 0) return initial_[cell];
  return events_[content.event].zeros ? 0 : word_of({TagKind::written, content.event, cell});
}

/// The events that can have left `word` in the cell, as it may be after the cut.
void History::candidates(std::uint64_t cell, std::uint64_t word, std::uint64_t cut,
                         std::vector<std::uint32_t>& into) const {
  into.clear();
  const auto found = contents_.find(cell);
  if (found == contents_.end()) {
    if (word == initial_[cell]) into.push_back(0);
    return;
  }
  for (const auto& content : found->second) {
    if (events_[content.event].began >= cut && content.event != 0) continue;
    if (content.superseded < cut || word_in(content, cell) != word) continue;
    into.push_back(content.event);
  }
}

/// Whether a sector that holds the content of `later` can't hold that of `event` in this cell,
/// because some write in between has replaced it.
bool History::hides(std::uint64_t cell, std::uint32_t event, std::uint32_t later) const {
  const auto found = contents_.find(cell);
  if (found == contents_.end()) return false;
  return std::ranges::any_of(found->second, [&](const Content& between) {
    return came_before(events_[event], events_[between.event]) &&
           (between.event == later || came_before(events_[between.event], events_[later]));
  });
}

/// Whether one sector can show one event in the one cell and another event in the other: there must
/// be an order of the two that leaves just that.
bool History::can_be_together(std::uint64_t cell, std::uint32_t event, std::uint64_t other_cell,
                              std::uint32_t other_event) const {
  if (event == other_event) return true;
  if (events_[event].covers(other_cell) && events_[other_event].covers(cell)) return false;
  return !hides(cell, event, other_event) && !hides(other_cell, other_event, event);
}

std::string History::describe(std::uint64_t cell, std::uint64_t word, std::uint64_t cut) const {
  auto text =
      fmt::format("sector {} cell {} holds <{}> after a cut at {};", cell / cells_per_sector,
                  cell % cells_per_sector, describe_word(word), cut);
  const auto found = contents_.find(cell);
  if (found == contents_.end()) {
    return text + fmt::format(" never written, was <{}>", describe_word(initial_[cell]));
  }
  for (const auto& content : found->second) {
    const auto& event = events_[content.event];
    const auto moment = [](std::uint64_t at) {
      return at == never ? std::string("never") : fmt::format("{}", at);
    };
    text += fmt::format("\n  event {}: <{}> began {} ended {} durable {} superseded {}",
                        content.event, describe_word(word_in(content, cell)), event.began,
                        moment(event.ended), moment(event.durable), moment(content.superseded));
  }
  return text;
}

std::optional<std::string> History::check(core::SectorNumber sector,
                                          std::span<const std::byte> content,
                                          std::uint64_t cut) const {
  thread_local std::array<std::vector<std::uint32_t>, cells_per_sector> found;
  for (std::uint64_t i = 0; i < cells_per_sector; ++i) {
    const auto cell = sector * cells_per_sector + i;
    const auto word = read_cell(content.subspan(i * cell_bytes, cell_bytes));
    if (!word) return fmt::format("sector {} cell {} is torn", sector, i);
    candidates(cell, *word, cut, found.at(i));
    if (found.at(i).empty()) return describe(cell, *word, cut);
  }
  for (std::uint64_t i = 0; i < cells_per_sector; ++i) {
    for (auto j = i + 1; j < cells_per_sector; ++j) {
      if (found.at(i) == found.at(j)) continue;
      const auto cell = sector * cells_per_sector + i;
      const auto other_cell = sector * cells_per_sector + j;
      const bool possible = std::ranges::any_of(found.at(i), [&](std::uint32_t event) {
        return std::ranges::any_of(found.at(j), [&](std::uint32_t other) {
          return can_be_together(cell, event, other_cell, other);
        });
      });
      if (possible) continue;
      return fmt::format("sector {} is a mixture of events {} (cell {}) and {} (cell {})", sector,
                         found.at(i).front(), i, found.at(j).front(), j);
    }
  }
  return std::nullopt;
}

}  // namespace cowfs::tests
