// Which sectors are in the COW.
//
// The bitmap is read from the file in chunks, when first asked for; a chunk that was never asked
// for costs neither time nor memory, and a hole of the bitmap is skipped as a whole, however long
// it is. Bits are only ever set. A bit that was set in memory is
// *pending* until a flush has put it on disk; the order of a flush is in cow_image.cpp.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/pending_store.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/sparse_bits.hpp"
#include "cowcore/storage.hpp"
#include "cowcore/zeroed_array.hpp"

namespace cowfs::core {

/// A stretch of the bitmap as it was at one moment, to be written by a flush.
struct PendingWords {
  struct Stretch {
    std::size_t first_word;  ///< 64 sectors each
    std::size_t words;
    std::size_t at;  ///< index of its first word in `values` and `pending`
  };
  std::vector<Stretch> stretches;
  std::vector<std::uint64_t> values;   ///< what the words held: pending bits and those on disk
  std::vector<std::uint64_t> pending;  ///< which of the bits were pending

  [[nodiscard]] bool empty() const { return stretches.empty(); }
  void clear();
};

/// Thread safety: all functions may be called at once, save that the three of a flush
/// (take_pending, write_pending, settle) are for one thread at a time.
/// Errors: std::system_error when the bitmap can't be read or written.
class SectorMap {
 public:
  /// A piece of the image whose sectors share a state.
  struct Run {
    SectorCount length;
    bool in_cow;
  };

  /// How many words of 64 sectors a map and its pending bits take.
  [[nodiscard]] static std::size_t words_for(const CowLayout& layout);

  /// `cow` must outlive the map. Reads nothing of it yet, save where `pending`, of
  /// words_for(layout) words, holds bits from before: those are pending. Without it they are kept
  /// in memory.
  SectorMap(Storage& cow, const CowLayout& layout, std::unique_ptr<PendingStore> pending = nullptr);

  [[nodiscard]] bool in_cow(SectorNumber sector) const;

  /// How many sectors from `first` on, at most `limit` (at least 1), share the state of the first.
  [[nodiscard]] Run run(SectorNumber first, SectorCount limit) const;

  /// How many sectors are in the COW. Reads all of the bitmap that is not a hole, and keeps nothing
  /// of it.
  [[nodiscard]] SectorCount count() const;

  /// Sees to it that set() and the flush after it have all they need for these sectors: the chunks
  /// of the bitmap in memory, and room for them on disk, so that a full disk is an error of the
  /// write and not of the flush.
  void prepare(SectorNumber first, SectorCount count);

  /// Marks sectors as in the COW. They must have been prepared, and their data written. All must
  /// have a bit. Does not fail.
  void set(SectorNumber first, SectorCount count);

  /// Marks those of 64 sectors that `bits` names. They need not have been prepared; bits of sectors
  /// that there are not are left out.
  void set_word(std::size_t word, std::uint64_t bits);

  /// Where the pending bits are kept.
  [[nodiscard]] PendingStore& pending_store() { return *pending_store_; }

  /// Takes a picture of all words with pending bits. A bit set after this call is not in it.
  void take_pending(PendingWords& into);
  /// Writes exactly those words.
  void write_pending(const PendingWords& words);
  /// They are on disk: those bits are pending no more.
  void settle(const PendingWords& words);

 private:
  using Word = std::uint64_t;
  static constexpr std::size_t word_sectors = 64;
  static constexpr std::size_t chunk_words = 512;
  static constexpr std::size_t chunk_bytes = chunk_words * sizeof(Word);
  static constexpr SectorCount chunk_sectors = chunk_words * word_sectors;  // 16 MiB of image

  using Chunk = std::array<Word, chunk_words>;

  void ensure_loaded(std::size_t chunk) const;
  void load(std::size_t chunk) const;
  void read_chunk(std::size_t chunk, Chunk& into) const;
  [[nodiscard]] Word valid_bits(std::size_t word) const;
  [[nodiscard]] SectorNumber find_set(SectorNumber from, SectorNumber end) const;
  [[nodiscard]] SectorNumber find_clear(SectorNumber from, SectorNumber end) const;
  [[nodiscard]] SectorNumber scan_chunk(SectorNumber from, SectorNumber end, Word invert) const;
  template <typename Function>
  static void for_each_word(SectorNumber first, SectorNumber end, Function&& function);
  void set_in_chunk(std::size_t chunk, SectorNumber first, SectorNumber end);
  void adopt_pending();
  void take_chunk(std::size_t chunk, PendingWords& into);
  void reserve(std::size_t chunk);

  class ChunkFinder;

  Storage& cow_;
  CowLayout layout_;
  std::size_t chunks_;
  mutable ZeroedArray<std::atomic<Word>> words_;
  std::unique_ptr<PendingStore> pending_store_;
  std::atomic<Word>* pending_;
  mutable SparseBits loaded_;                        // a bit for each chunk
  ZeroedArray<std::atomic<std::uint8_t>> reserved_;  // chunks with room on disk
  SparseBits dirty_;                                 // chunks that may have pending bits
  mutable std::array<std::mutex, 16> load_mutex_;    // one of them guards the loading of a chunk
};

}  // namespace cowfs::core
