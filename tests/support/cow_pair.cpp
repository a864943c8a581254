#include "tests/support/cow_pair.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "cowcore/posix_storage.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::tests {

using core::HeaderFormat;
using core::MagicOrder;

namespace {

const char* short_name(HeaderFormat format) {
  switch (format) {
    case HeaderFormat::v1:
      return "v1";
    case HeaderFormat::v2:
      return "v2";
    case HeaderFormat::v3:
      return "v3";
    case HeaderFormat::v3_wide:
      return "v3_wide";
  }
  return "unknown";
}

}  // namespace

std::string shape_name(const Shape& shape) {
  const bool is_v3 = shape.format == HeaderFormat::v3 || shape.format == HeaderFormat::v3_wide;
  return fmt::format("{}_{}_s{}{}_{}", short_name(shape.format),
                     shape.magic_order == MagicOrder::big ? "big" : "little", shape.sector_size,
                     is_v3 ? fmt::format("_a{}", shape.alignment) : "", shape.backing_size);
}

std::vector<Shape> every_layout(std::uint64_t backing_size) {
  return {
      {.format = HeaderFormat::v3, .backing_size = backing_size},
      {.format = HeaderFormat::v3, .backing_size = backing_size, .alignment = 512},
      {.format = HeaderFormat::v3, .backing_size = backing_size, .alignment = 65536},
      {.format = HeaderFormat::v3, .backing_size = backing_size, .magic_order = MagicOrder::little},
      {.format = HeaderFormat::v3_wide, .backing_size = backing_size},
      {.format = HeaderFormat::v3_wide,
       .backing_size = backing_size,
       .magic_order = MagicOrder::little},
      {.format = HeaderFormat::v2, .backing_size = backing_size},
      {.format = HeaderFormat::v2, .backing_size = backing_size, .magic_order = MagicOrder::little},
      {.format = HeaderFormat::v1, .backing_size = backing_size, .magic_order = MagicOrder::little},
  };
}

core::CowHeader make_header(const Shape& shape, const std::string& backing_path) {
  const bool is_v3 = shape.format == HeaderFormat::v3 || shape.format == HeaderFormat::v3_wide;
  return {
      .format = shape.format,
      .magic_order = shape.magic_order,
      .backing_mtime = test_mtime,
      .backing_size = shape.backing_size,
      .sector_size = shape.sector_size,
      .alignment = is_v3 ? shape.alignment : shape.sector_size,
      .cow_format = 0,
      .backing_path = backing_path,
  };
}

void make_empty_cow(core::Storage& cow, const core::CowHeader& header) {
  const auto layout = core::compute_layout(header, cow.name());
  cow.write(0, core::serialize_header(header));
  cow.resize(std::max(layout.bitmap_offset + layout.bitmap_length,
                      layout.data_offset + header.backing_size));
}

void set_bit_on_disk(core::Storage& cow, const core::CowLayout& layout, core::SectorNumber sector) {
  const auto offset = layout.bitmap_offset + sector / 8;
  std::array<std::byte, 1> byte{};
  cow.read(offset, byte);
  byte[0] |= std::byte{1} << (sector % 8);
  cow.write(offset, byte);
}

bool bit_on_disk(const core::Storage& cow, const core::CowLayout& layout,
                 core::SectorNumber sector) {
  std::array<std::byte, 1> byte{};
  cow.read(layout.bitmap_offset + sector / 8, byte);
  return (byte[0] >> (sector % 8) & std::byte{1}) != std::byte{};
}

std::vector<std::byte> make_backing(core::Storage& backing, std::uint64_t size,
                                    TestRandom& random) {
  std::vector<std::byte> content(size);
  backing.resize(size);
  bool is_data = true;
  for (std::uint64_t at = 0; at < size; is_data = !is_data) {
    // Now and then the edge is not at a block: then data ends in zeros that are no hole.
    const std::uint64_t unit = random.one_in(4) ? 512 : 4096;
    const auto length = std::min<std::uint64_t>(size - at, random.between(1, 24) * unit);
    if (is_data) {
      const auto bytes = random.bytes(length);
      std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(at));
      backing.write(at, bytes);
    }
    at += length;
  }
  return content;
}

std::vector<std::byte> padded(std::vector<std::byte> content) {
  content.resize(core::round_up(content.size(), core::sector_bytes));
  return content;
}

std::unique_ptr<core::CowImage> PairInMemory::open() const {
  return std::make_unique<core::CowImage>(cow->open(), backing->open(), layout, false);
}

PairInMemory make_pair_in_memory(const Shape& shape, TestRandom& random,
                                 std::uint64_t block_bytes) {
  PairInMemory pair;
  pair.cow = MemoryFile::make("cow", block_bytes);
  pair.backing = MemoryFile::make("backing", block_bytes);
  pair.header = make_header(shape);
  pair.layout = core::compute_layout(pair.header, "cow");
  make_empty_cow(*pair.cow->open(), pair.header);
  pair.content = padded(make_backing(*pair.backing->open(), shape.backing_size, random));
  return pair;
}

std::unique_ptr<core::Storage> make_file(const boost::filesystem::path& path) {
  core::FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd) throw std::system_error(errno, std::generic_category(), path.string());
  return std::make_unique<core::PosixStorage>(std::move(fd), path.string());
}

PairOnDisk make_pair_on_disk(const boost::filesystem::path& directory, const Shape& shape,
                             TestRandom& random) {
  PairOnDisk pair;
  pair.cow = directory / "cow";
  pair.backing = directory / "backing";
  pair.header = make_header(shape, pair.backing.string());
  pair.layout = core::compute_layout(pair.header, "cow");
  make_empty_cow(*make_file(pair.cow), pair.header);
  pair.content = padded(make_backing(*make_file(pair.backing), shape.backing_size, random));
  set_mtime(pair.backing, test_mtime);
  return pair;
}

}  // namespace cowfs::tests
