// Changing bits of a bitmap on disk, in little memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Sets and clears bits in the file itself, for operations on a whole image that nobody else uses.
/// Memory: 4 KiB. When the data must be on disk before a bit, or a bit before the data goes, is the
/// caller's business.
///
/// Thread safety: one thread at a time. Errors: std::system_error.
class BitmapEditor {
 public:
  /// `cow` must outlive the editor.
  BitmapEditor(Storage& cow, const CowLayout& layout);

  /// All of the sectors must have a bit. Quick when the calls go upwards.
  void set(SectorNumber first, SectorCount count) { change(first, count, true); }
  void clear(SectorNumber first, SectorCount count) { change(first, count, false); }

  /// Writes what is still in memory. Does not sync.
  void finish();

 private:
  static constexpr std::uint64_t piece_bytes = 4096;

  void change(SectorNumber first, SectorCount count, bool state);
  void load(std::uint64_t piece);

  Storage& cow_;
  CowLayout layout_;
  std::vector<std::byte> bytes_;
  std::uint64_t loaded_ = ~std::uint64_t{0};  ///< the number of the piece in bytes_
  std::uint64_t changed_begin_ = piece_bytes;
  std::uint64_t changed_end_ = 0;
};

}  // namespace cowfs::core
