// Users and groups as the export shows them, and as the host has them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace cowfs::hostfs {

/// A line of a map, as /proc/PID/uid_map has it.
struct IdRange {
  std::uint32_t inside;   ///< first id, as the export shows it
  std::uint32_t outside;  ///< first id, as the host has it
  std::uint32_t count;
};

/// "INSIDE:OUTSIDE:COUNT". Nothing if it is no such range: not three numbers, a count of 0, or one
/// that reaches id 4294967295, which is none.
[[nodiscard]] std::optional<IdRange> parse_id_range(std::string_view text);

/// What an id is shown as that no range covers: the kernel's "overflow" id.
inline constexpr std::uint32_t unmapped_id = 65534;

/// Maps by ranges, as user namespaces do. Without a range it changes nothing.
class IdMap {
 public:
  /// Returns whether the range overlaps none that is there already, on either side; only then is it
  /// taken.
  [[nodiscard]] bool add(const IdRange& range);
  [[nodiscard]] bool is_identity() const { return ranges_.empty(); }

  /// What the host's id is shown as.
  [[nodiscard]] std::uint32_t shown(std::uint32_t host) const;
  /// The host's id for one that is shown; nothing if no range covers it.
  [[nodiscard]] std::optional<std::uint32_t> on_host(std::uint32_t shown) const;

 private:
  std::vector<IdRange> ranges_;
};

}  // namespace cowfs::hostfs
