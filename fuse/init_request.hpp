// The first request of a connection, in which the kernel says what it can do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fuse/newer_protocol.hpp"

namespace cowfs::fuse {

/// The upper half (bit 32 and up) of the flags that the kernel offers in a FUSE_INIT request; 0 for
/// a kernel that has none. Throws std::runtime_error if it is no FUSE_INIT request.
[[nodiscard]] std::uint32_t offered_flags2(std::span<const std::byte> request);

/// All the flags that it offers, the upper half in the upper half.
[[nodiscard]] std::uint64_t offered_flags(std::span<const std::byte> request);

}  // namespace cowfs::fuse
