#include "cowcore/cow_description.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "cowcore/errors.hpp"

namespace cowfs::core {

CowDescription describe_cow(const Storage& cow) {
  std::array<std::byte, longest_header> bytes;
  const auto count = cow.read(0, bytes);
  CowDescription found;
  found.header = parse_header(std::span(bytes).first(count), cow.name());
  found.layout = compute_layout(found.header, cow.name());
  const auto bitmap_end = found.layout.bitmap_offset + found.layout.bitmap_length;
  const auto size = cow.status().size;
  if (size < bitmap_end) {
    throw DamagedCow(
        cow.name(),
        fmt::format("is cut short inside its bitmap ({} of {} bytes)", size, bitmap_end),
        "restore the COW from a copy");
  }
  return found;
}

void rewrite_header(Storage& cow, const CowHeader& header) {
  const auto wanted = serialize_header(header);
  std::vector<std::byte> present(wanted.size());
  cow.read(0, present);
  const auto [first, unused] = std::ranges::mismatch(wanted, present);
  if (first == wanted.end()) return;
  const auto begin = static_cast<std::size_t>(first - wanted.begin());
  auto end = wanted.size();
  while (wanted[end - 1] == present[end - 1]) --end;
  cow.write(begin, std::span(wanted).subspan(begin, end - begin));
  cow.sync();
}

}  // namespace cowfs::core
