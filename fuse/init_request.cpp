#include "fuse/init_request.hpp"

#include <linux/fuse.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace cowfs::fuse {

std::uint32_t offered_flags2(std::span<const std::byte> request) {
  return static_cast<std::uint32_t>(offered_flags(request) >> 32);
}

std::uint64_t offered_flags(std::span<const std::byte> request) {
  fuse_in_header header{};
  if (request.size() >= sizeof header) std::memcpy(&header, request.data(), sizeof header);
  if (header.opcode != FUSE_INIT) throw std::runtime_error("/dev/fuse: no INIT request");
  // An older kernel's request is shorter: the rest counts as zeros.
  fuse_init_in init{};
  const auto body = request.subspan(sizeof header);
  std::memcpy(&init, body.data(), std::min(sizeof init, body.size()));
  const std::uint64_t upper = (init.flags & FUSE_INIT_EXT) != 0 ? init.flags2 : 0;
  return upper << 32 | init.flags;
}

}  // namespace cowfs::fuse
