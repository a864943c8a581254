// Going through the bitmap of a COW from end to end, in little memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Reads the bitmap on disk a piece at a time, and holes of it not at all: for operations on a
/// whole image that nobody writes. (SectorMap keeps what it has read, and bits that are not on disk
/// yet.) Memory: 4 KiB at any size of the image.
///
/// Thread safety: one thread at a time. Errors: std::system_error when the bitmap can't be read.
class BitmapReader {
 public:
  struct Run {
    SectorCount length;
    bool in_cow;
  };

  /// `cow` must outlive the reader.
  BitmapReader(const Storage& cow, const CowLayout& layout);

  /// How many sectors from `first` on, at most `limit` (at least 1), share the state of the first.
  /// Quick when the calls go upwards. Sectors without a bit are not in the COW.
  [[nodiscard]] Run run(SectorNumber first, SectorCount limit);

 private:
  /// A block of most file systems: where changes are scattered, little is read in vain.
  static constexpr std::size_t piece_bytes = 4096;
  static constexpr SectorCount piece_sectors = piece_bytes * 8;

  void load(std::uint64_t piece);
  [[nodiscard]] bool is_hole(std::uint64_t begin, std::uint64_t end);
  [[nodiscard]] SectorNumber first_after_hole() const;
  [[nodiscard]] SectorNumber find(bool state, SectorNumber from, SectorNumber end);
  [[nodiscard]] SectorNumber scan(SectorNumber from, SectorNumber end, std::uint64_t invert) const;

  const Storage& cow_;
  CowLayout layout_;
  std::vector<std::uint64_t> words_;
  std::uint64_t loaded_ = ~std::uint64_t{0};  ///< the number of the piece in words_
  bool loaded_is_empty_ = false;
  // What was found last, in bytes of the file: a hole, which may be empty, and data after it.
  std::uint64_t hole_begin_ = 0;
  std::uint64_t hole_end_ = 0;
  std::uint64_t data_end_ = 0;
};

}  // namespace cowfs::core
