#include "hostfs/id_map.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace cowfs::hostfs {

std::optional<IdRange> parse_id_range(std::string_view text) {
  std::array<std::uint32_t, 3> numbers{};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0) {
      if (at == end || *at != ':') return std::nullopt;
      ++at;
    }
    const auto [next, error] = std::from_chars(at, end, numbers[i]);
    if (error != std::errc{}) return std::nullopt;
    at = next;
  }
  const IdRange range{numbers[0], numbers[1], numbers[2]};
  constexpr auto none = std::numeric_limits<std::uint32_t>::max();
  if (at != end || range.count == 0) return std::nullopt;
  if (range.count > none - range.inside || range.count > none - range.outside) return std::nullopt;
  return range;
}

namespace {

bool overlap(std::uint32_t a, std::uint32_t a_count, std::uint32_t b, std::uint32_t b_count) {
  return a < std::uint64_t{b} + b_count && b < std::uint64_t{a} + a_count;
}

}  // namespace

bool IdMap::add(const IdRange& range) {
  const bool taken = std::ranges::any_of(ranges_, [&](const IdRange& other) {
    return overlap(range.inside, range.count, other.inside, other.count) ||
           overlap(range.outside, range.count, other.outside, other.count);
  });
  if (!taken) ranges_.push_back(range);
  return !taken;
}

std::uint32_t IdMap::shown(std::uint32_t host) const {
  if (ranges_.empty()) return host;
  for (const auto& range : ranges_) {
    if (host >= range.outside && host - range.outside < range.count) {
      return range.inside + (host - range.outside);
    }
  }
  return unmapped_id;
}

std::optional<std::uint32_t> IdMap::on_host(std::uint32_t shown) const {
  if (ranges_.empty()) return shown;
  for (const auto& range : ranges_) {
    if (shown >= range.inside && shown - range.inside < range.count) {
      return range.outside + (shown - range.inside);
    }
  }
  return std::nullopt;
}

}  // namespace cowfs::hostfs
