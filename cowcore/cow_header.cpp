#include "cowcore/cow_header.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "cowcore/errors.hpp"

namespace cowfs::core {
namespace {

constexpr std::uint32_t magic = 0x4f4f4f4d;
constexpr std::size_t absent = 0;  // no field but the magic is at 0

struct Fields {
  std::uint32_t version;
  std::size_t mtime, size, sector_size, alignment, cow_format, path, path_bytes, length;
};

constexpr Fields fields_of(HeaderFormat format) {
  switch (format) {
    case HeaderFormat::v1:
      return {1, 264, 268, 276, absent, absent, 8, 256, 280};
    case HeaderFormat::v2:
      return {2, 4104, 4108, 4116, absent, absent, 8, 4096, 4120};
    case HeaderFormat::v3:
      return {3, 8, 12, 20, 24, 28, 32, 4096, 4128};
    case HeaderFormat::v3_wide:
      return {3, 8, 16, 24, 28, 32, 36, 4096, 4136};
  }
  throw std::logic_error("no such header format");
}

template <typename Integer>
Integer load(std::span<const std::byte> bytes, std::size_t at, std::endian order) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    const auto shift = 8 * (order == std::endian::big ? sizeof value - 1 - i : i);
    value |= static_cast<Integer>(std::to_integer<Integer>(bytes[at + i]) << shift);
  }
  return value;
}

template <typename Integer>
void store(std::span<std::byte> bytes, std::size_t at, std::endian order, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) {
    const auto shift = 8 * (order == std::endian::big ? sizeof value - 1 - i : i);
    bytes[at + i] = static_cast<std::byte>(value >> shift);
  }
}

HeaderFormat find_format(std::uint32_t version, std::span<const std::byte> bytes,
                         const std::string& file) {
  switch (version) {
    case 1:
      return HeaderFormat::v1;
    case 2:
      return HeaderFormat::v2;
    case 3: {
      // An absolute path begins at 32 in V3; in the wide form the cow_format, always 0, is there.
      const auto word = bytes.subspan(std::min<std::size_t>(bytes.size(), 32));
      const auto probe = word.first(std::min<std::size_t>(word.size(), 4));
      const bool zero = std::ranges::all_of(probe, [](std::byte b) { return b == std::byte{}; });
      return zero ? HeaderFormat::v3_wide : HeaderFormat::v3;
    }
    default:
      throw DamagedCow(file, fmt::format("unknown COW version {}", version),
                       "versions 1 to 3 are known");
  }
}

std::endian number_order(HeaderFormat format, MagicOrder magic_order) {
  // V1 is in the byte order of its writer, as is the magic.
  return format == HeaderFormat::v1 && magic_order == MagicOrder::little ? std::endian::little
                                                                         : std::endian::big;
}

void check_unit(const std::string& file, const char* what, std::uint32_t value,
                std::uint32_t largest) {
  // Tearing at sector boundaries is the most that a power loss does only if the data lies on them.
  if (value < 512 || value > largest || !std::has_single_bit(value)) {
    throw DamagedCow(file, fmt::format("its header says {} {}", what, value),
                     fmt::format("a power of two from 512 to {} is possible", largest));
  }
}

void check_values(const CowHeader& header, const std::string& file) {
  check_unit(file, "sector size", header.sector_size, 1U << 16);
  check_unit(file, "alignment", header.alignment, 1U << 24);
}

std::string parse_path(std::span<const std::byte> field, const std::string& file) {
  const auto end = std::ranges::find(field, std::byte{});
  if (end == field.end()) {
    throw DamagedCow(file, "the backing path in its header does not end",
                     "restore the COW from a copy");
  }
  // What follows the NUL may be left-over memory of the kernel that wrote it: never looked at.
  return {reinterpret_cast<const char*>(field.data()),
          static_cast<std::size_t>(end - field.begin())};
}

}  // namespace

std::size_t header_length(HeaderFormat format) { return fields_of(format).length; }

std::size_t longest_backing_path(HeaderFormat format) { return fields_of(format).path_bytes - 1; }

const char* format_name(HeaderFormat format) {
  switch (format) {
    case HeaderFormat::v1:
      return "V1";
    case HeaderFormat::v2:
      return "V2";
    case HeaderFormat::v3:
      return "V3";
    case HeaderFormat::v3_wide:
      return "V3 (64-bit)";
  }
  return "unknown";
}

bool has_cow_magic(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && (load<std::uint32_t>(bytes, 0, std::endian::big) == magic ||
                               load<std::uint32_t>(bytes, 0, std::endian::little) == magic);
}

CowHeader parse_header(std::span<const std::byte> bytes, const std::string& file) {
  if (!has_cow_magic(bytes)) {
    throw DamagedCow(file, "is not a COW file (no magic at its start)",
                     "give the COW file, not the backing; `cowfs create` makes one");
  }
  if (bytes.size() < 8) {
    throw DamagedCow(file, "is cut short inside its header", "restore the COW from a copy");
  }
  CowHeader header;
  const bool big = load<std::uint32_t>(bytes, 0, std::endian::big) == magic;
  header.magic_order = big ? MagicOrder::big : MagicOrder::little;
  const auto version = load<std::uint32_t>(bytes, 4, big ? std::endian::big : std::endian::little);
  header.format = find_format(version, bytes, file);

  const auto at = fields_of(header.format);
  if (bytes.size() < at.length) {
    throw DamagedCow(file, "is cut short inside its header", "restore the COW from a copy");
  }
  if (header.format == HeaderFormat::v1 && big) {
    throw DamagedCow(file, "is a V1 COW of a big-endian machine",
                     "no UML on this machine reads it");
  }
  const auto order = number_order(header.format, header.magic_order);
  header.backing_mtime = load<std::uint32_t>(bytes, at.mtime, order);
  header.backing_size = load<std::uint64_t>(bytes, at.size, order);
  header.sector_size = load<std::uint32_t>(bytes, at.sector_size, order);
  header.alignment =
      at.alignment == absent ? header.sector_size : load<std::uint32_t>(bytes, at.alignment, order);
  header.cow_format =
      at.cow_format == absent ? 0 : load<std::uint32_t>(bytes, at.cow_format, order);
  check_values(header, file);
  header.backing_path = parse_path(bytes.subspan(at.path, at.path_bytes), file);
  return header;
}

std::vector<std::byte> serialize_header(const CowHeader& header) {
  const auto at = fields_of(header.format);
  if (header.backing_path.size() >= at.path_bytes) {
    throw std::length_error("the backing path does not fit into the header");
  }
  std::vector<std::byte> bytes(at.length);
  const auto magic_order =
      header.magic_order == MagicOrder::big ? std::endian::big : std::endian::little;
  store(std::span(bytes), 0, magic_order, magic);
  store(std::span(bytes), 4, magic_order, at.version);
  const auto order = number_order(header.format, header.magic_order);
  store(std::span(bytes), at.mtime, order, header.backing_mtime);
  store(std::span(bytes), at.size, order, header.backing_size);
  store(std::span(bytes), at.sector_size, order, header.sector_size);
  if (at.alignment != absent) store(std::span(bytes), at.alignment, order, header.alignment);
  if (at.cow_format != absent) store(std::span(bytes), at.cow_format, order, header.cow_format);
  std::memcpy(bytes.data() + at.path, header.backing_path.data(), header.backing_path.size());
  return bytes;
}

}  // namespace cowfs::core
