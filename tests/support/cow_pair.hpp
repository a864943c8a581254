// COW files and backings of every layout, made for a test.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/storage.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

/// What a COW is like, apart from its content.
struct Shape {
  core::HeaderFormat format = core::HeaderFormat::v3;
  std::uint64_t backing_size = std::uint64_t{1} << 20;
  core::MagicOrder magic_order = core::MagicOrder::big;
  std::uint32_t sector_size = 512;
  std::uint32_t alignment = 4096;  ///< not in V1 and V2
};

/// "v3_wide_little_a4096_1048576", fit for the name of a test.
[[nodiscard]] std::string shape_name(const Shape& shape);

/// One shape for each layout, magic order and alignment that a program ever wrote.
[[nodiscard]] std::vector<Shape> every_layout(std::uint64_t backing_size);

inline constexpr std::uint32_t test_mtime = 1700000001;

[[nodiscard]] core::CowHeader make_header(const Shape& shape,
                                          const std::string& backing_path = "/nowhere/backing");

/// Writes a COW with nothing in it, as UML does. The file must be empty.
void make_empty_cow(core::Storage& cow, const core::CowHeader& header);

/// Sets the bits of sectors in the file, not their data.
void set_bit_on_disk(core::Storage& cow, const core::CowLayout& layout, core::SectorNumber sector);
[[nodiscard]] bool bit_on_disk(const core::Storage& cow, const core::CowLayout& layout,
                               core::SectorNumber sector);

/// Makes a backing of data and holes; returns its content. The file must be empty.
std::vector<std::byte> make_backing(core::Storage& backing, std::uint64_t size, TestRandom& random);

/// The content as the merged image shows it: filled up with zeros to whole sectors.
[[nodiscard]] std::vector<std::byte> padded(std::vector<std::byte> content);

/// A backing and an empty COW, in memory.
struct PairInMemory {
  std::shared_ptr<MemoryFile> cow;
  std::shared_ptr<MemoryFile> backing;
  core::CowHeader header;
  core::CowLayout layout;
  std::vector<std::byte> content;  ///< of the merged image

  /// Opens the two as they are now.
  [[nodiscard]] std::unique_ptr<core::CowImage> open() const;
};
[[nodiscard]] PairInMemory make_pair_in_memory(const Shape& shape, TestRandom& random,
                                               std::uint64_t block_bytes = 4096);

/// The files "backing" (its mtime test_mtime) and "cow" in a directory.
struct PairOnDisk {
  boost::filesystem::path cow;
  boost::filesystem::path backing;
  core::CowHeader header;
  core::CowLayout layout;
  std::vector<std::byte> content;  ///< of the merged image
};
[[nodiscard]] PairOnDisk make_pair_on_disk(const boost::filesystem::path& directory,
                                           const Shape& shape, TestRandom& random);

/// An empty regular file, opened for reading and writing.
[[nodiscard]] std::unique_ptr<core::Storage> make_file(const boost::filesystem::path& path);

}  // namespace cowfs::tests
