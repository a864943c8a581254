// The header of a COW file, and its bytes. No I/O here.
//
// Source of the facts: files written by User-Mode Linux 6.1, uml_mkcow and uml_moo 20070815.4; the
// golden files in tests/data are such files.
//
//   | field        | V3             | V3 wide         | V2         | V1            |
//   |--------------|----------------|-----------------|------------|---------------|
//   | magic        | 0              | 0               | 0          | 0             |
//   | version      | 4              | 4               | 4          | 4             |
//   | mtime u32    | 8              | 8, then 4 zeros | 4104       | 264           |
//   | size u64     | 12             | 16              | 4108       | 268           |
//   | sector size  | 20             | 24              | 4116       | 276           |
//   | alignment    | 24             | 28              | -          | -             |
//   | format       | 28             | 32              | -          | -             |
//   | backing path | 32, 4096 bytes | 36, 4096 bytes  | 8, 4096    | 8, 256 bytes  |
//   | length       | 4128           | 4136            | 4120       | 280           |
//
// Numbers are big-endian. In V1 they are in the byte order of the machine that wrote the file; that
// is little-endian for every file that a UML of today can read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cowfs::core {

enum class HeaderFormat {
  v1,
  v2,
  v3,       ///< what UML and uml_mkcow write
  v3_wide,  ///< "64-bit" V3, from builds before December 2005
};

/// The byte order of magic and version. The other fields of V2 and V3 are big-endian all the same.
enum class MagicOrder { big, little };

struct CowHeader {
  HeaderFormat format = HeaderFormat::v3;
  MagicOrder magic_order = MagicOrder::big;
  std::uint32_t backing_mtime = 0;  ///< seconds, the low 32 bits
  std::uint64_t backing_size = 0;   ///< bytes
  std::uint32_t sector_size = 512;
  std::uint32_t alignment = 4096;  ///< V1, V2: the sector size
  std::uint32_t cow_format = 0;    ///< no program gives it a meaning; kept as it is
  std::string backing_path;

  bool operator==(const CowHeader&) const = default;
};

/// As many bytes as any header takes; a prefix this long is all that parse_header looks at.
inline constexpr std::size_t longest_header = 4136;

[[nodiscard]] std::size_t header_length(HeaderFormat format);

/// How many bytes the backing path may take, without its NUL.
[[nodiscard]] std::size_t longest_backing_path(HeaderFormat format);

/// "V3", "V3 (64-bit)", "V2", "V1".
[[nodiscard]] const char* format_name(HeaderFormat format);

/// Reads a header from the first bytes of a file. `file` is the name that errors give.
/// Throws DamagedCow when the bytes are no header, are cut short, or hold values that no COW can
/// have (see compute_layout for those that only the sizes tell).
[[nodiscard]] CowHeader parse_header(std::span<const std::byte> bytes, const std::string& file);

/// Whether the bytes begin with a COW's magic, in either byte order.
[[nodiscard]] bool has_cow_magic(std::span<const std::byte> bytes);

/// The bytes of a header, header_length() of them; zeros after the path's NUL.
/// Throws std::length_error if the path does not fit.
[[nodiscard]] std::vector<std::byte> serialize_header(const CowHeader& header);

}  // namespace cowfs::core
