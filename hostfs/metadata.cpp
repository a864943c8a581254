#include "hostfs/metadata.hpp"

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <charconv>

namespace cowfs::hostfs {

std::string encode_metadata(const Metadata& metadata) {
  return fmt::format("1 {:o} {} {} {}", metadata.mode, metadata.uid, metadata.gid, metadata.device);
}

namespace {

/// Takes a number and what follows it off the text. Whether there was one.
bool take_number(std::string_view& text, int base, bool last, std::uint32_t& value) {
  const auto* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc{}) return false;
  if (last) return next == end;
  if (next == end || *next != ' ') return false;
  text.remove_prefix(static_cast<std::size_t>(next - text.data()) + 1);
  return true;
}

}  // namespace

std::optional<Metadata> decode_metadata(std::string_view text) {
  std::uint32_t version = 0;
  std::uint32_t mode = 0;
  Metadata metadata;
  const bool is_whole =
      take_number(text, 10, false, version) && version == 1 && take_number(text, 8, false, mode) &&
      take_number(text, 10, false, metadata.uid) && take_number(text, 10, false, metadata.gid) &&
      take_number(text, 10, true, metadata.device);
  if (!is_whole || (mode & ~(S_IFMT | 07777U)) != 0) return std::nullopt;
  metadata.mode = mode;
  return metadata;
}

bool may_stand_for(mode_t host, mode_t shown) {
  switch (shown) {
    case S_IFDIR:
      return host == S_IFDIR;
    case S_IFREG:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      return host == S_IFREG;
    default:
      return false;
  }
}

std::uint32_t message_device(dev_t device) {
  const auto low = minor(device);
  return (low & 0xff) | (major(device) & 0xfff) << 8 | (low & ~0xffU) << 12;
}

dev_t host_device(std::uint32_t device) {
  return makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
}

}  // namespace cowfs::hostfs
