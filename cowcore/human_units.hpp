// Sizes and times as people write them, for messages.
#pragma once

#include <cstdint>
#include <string>

namespace cowfs::core {

/// "1.5 GiB", "4 KiB", "511 bytes": at most one digit after the point.
[[nodiscard]] std::string short_size(std::uint64_t bytes);

/// The same and the exact number: "1.5 GiB (1610612736 bytes)".
[[nodiscard]] std::string human_size(std::uint64_t bytes);

/// Local time, "2023-11-14 22:13:20".
[[nodiscard]] std::string human_time(std::uint32_t seconds);

}  // namespace cowfs::core
