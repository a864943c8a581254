// Walking over the bitmap in a COW file, from its start to its end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "cowcore/cow_layout.hpp"
#include "cowcore/extent.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Gives the runs of sectors that are in the COW, as the file has them. Keeps none of the bitmap
/// and skips its holes: takes the same little memory for every size, and time for what the bitmap
/// holds. SectorMap is for whoever asks here and there, or writes.
///
/// Thread safety: one thread at a time. Errors: those of the file.
class BitmapWalk {
 public:
  /// `cow` must outlive the walk.
  BitmapWalk(const Storage& cow, const CowLayout& layout) : cow_(cow), layout_(layout) {}

  /// The next run, as long as it can be; nothing after the last one.
  [[nodiscard]] std::optional<SectorRange> next();

 private:
  using Word = std::uint64_t;
  static constexpr std::size_t word_sectors = 64;

  [[nodiscard]] SectorNumber find_set(SectorNumber from);
  [[nodiscard]] SectorNumber find_clear(SectorNumber from);
  void fill(std::size_t word);
  void ask(std::uint64_t at);

  const Storage& cow_;
  CowLayout layout_;
  SectorNumber at_ = 0;
  // Of the words [known_from_, known_to_), those before data_word_ are zero; the others are in
  // words_.
  std::array<Word, 4096> words_{};
  std::size_t known_from_ = 0;
  std::size_t data_word_ = 0;
  std::size_t known_to_ = 0;
  // The data of the file that was found last.
  std::uint64_t data_begin_ = 0;
  std::uint64_t data_end_ = 0;
};

}  // namespace cowfs::core
