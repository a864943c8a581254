#include "cowcore/sector_map.hpp"

#include <algorithm>
#include <bit>
#include <system_error>

namespace cowfs::core {
namespace {

/// The bytes of the bitmap, lowest first, are the bytes of a little-endian word.
constexpr std::uint64_t swap_if_big(std::uint64_t word) {
  if constexpr (std::endian::native == std::endian::big) return __builtin_bswap64(word);
  return word;
}

constexpr std::uint64_t mask_of(unsigned first, std::uint64_t count) {
  const auto ones = count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
  return ones << first;
}

}  // namespace

void PendingWords::clear() {
  stretches.clear();
  values.clear();
  pending.clear();
}

class SectorMap::HoleFinder {
 public:
  explicit HoleFinder(const SectorMap& map) : map_(map) {}

  /// Whether the chunk is known to be empty without being read.
  bool is_empty(std::size_t chunk) {
    if (map_.is_loaded(chunk)) return false;
    const auto begin = map_.layout_.bitmap_offset + chunk * chunk_bytes;
    const auto end = begin + chunk_bytes;
    if (begin >= asked_from_ && end <= hole_end_) return true;
    const auto next = map_.cow_.next_data(begin);
    asked_from_ = begin;
    hole_end_ = next.value_or(~std::uint64_t{0});
    return end <= hole_end_;
  }

 private:
  const SectorMap& map_;
  std::uint64_t asked_from_ = 0;
  std::uint64_t hole_end_ = 0;
};

std::size_t SectorMap::words_for(const CowLayout& layout) {
  return (layout.sectors_with_bit + chunk_sectors - 1) / chunk_sectors * chunk_words;
}

SectorMap::SectorMap(Storage& cow, const CowLayout& layout, std::unique_ptr<PendingStore> pending)
    : cow_(cow),
      layout_(layout),
      chunks_(words_for(layout) / chunk_words),
      words_(chunks_ * chunk_words),
      pending_store_(pending ? std::move(pending)
                             : std::make_unique<VolatilePending>(chunks_ * chunk_words)),
      pending_(pending_store_->words()),
      loaded_(chunks_),
      reserved_(chunks_),
      dirty_chunks_((chunks_ + 63) / 64) {
  adopt_pending();
}

/// Makes the bits that a worker before this one has left visible.
void SectorMap::adopt_pending() {
  pending_store_->for_each_used([this](std::size_t first, std::size_t count) {
    for (auto i = first; i < first + count; ++i) {
      if (const auto bits = pending_[i].load(std::memory_order_acquire); bits != 0) {
        set_word(i, bits);
      }
    }
  });
}

void SectorMap::set_word(std::size_t word, std::uint64_t bits) {
  bits &= valid_bits(word);
  if (bits == 0) return;
  ensure_loaded(word / chunk_words);
  pending_[word].fetch_or(bits, std::memory_order_release);
  mark_dirty(word / chunk_words);
  words_[word].fetch_or(bits, std::memory_order_release);
}

/// The bits of a word that stand for sectors; the others may hold anything in the file.
SectorMap::Word SectorMap::valid_bits(std::size_t word) const {
  const auto first = word * word_sectors;
  if (first >= layout_.sectors_with_bit) return 0;
  return mask_of(0, layout_.sectors_with_bit - first);
}

void SectorMap::ensure_loaded(std::size_t chunk) const {
  if (!is_loaded(chunk)) load(chunk);
}

void SectorMap::load(std::size_t chunk) const {
  const std::lock_guard guard(load_mutex_[chunk % load_mutex_.size()]);
  if (is_loaded(chunk)) return;
  std::array<Word, chunk_words> buffer{};
  const auto offset = chunk * chunk_bytes;
  const auto length = std::min<std::uint64_t>(chunk_bytes, layout_.bitmap_length - offset);
  cow_.read(layout_.bitmap_offset + offset,
            std::as_writable_bytes(std::span(buffer)).first(length));
  for (std::size_t i = 0; i < chunk_words; ++i) {
    const auto word = swap_if_big(buffer[i]) & valid_bits(chunk * chunk_words + i);
    // Writing a zero would cost the page that the array does not have yet.
    if (word != 0) words_[chunk * chunk_words + i].store(word, std::memory_order_relaxed);
  }
  loaded_[chunk].store(1, std::memory_order_release);
}

bool SectorMap::in_cow(SectorNumber sector) const {
  if (sector >= layout_.sectors_with_bit) return false;
  ensure_loaded(sector / chunk_sectors);
  const auto word = words_[sector / word_sectors].load(std::memory_order_acquire);
  return (word >> (sector % word_sectors) & 1) != 0;
}

/// The first sector in [from, end), all in one loaded chunk, whose bit differs from `invert`'s.
SectorNumber SectorMap::scan_chunk(SectorNumber from, SectorNumber end, Word invert) const {
  auto skip = from % word_sectors;
  for (auto index = from / word_sectors; index * word_sectors < end; ++index) {
    const auto word = words_[index].load(std::memory_order_acquire) ^ invert;
    const auto rest = word >> skip << skip;
    skip = 0;
    if (rest != 0) {
      const auto bit = static_cast<unsigned>(std::countr_zero(rest));
      return std::min(index * word_sectors + bit, end);
    }
  }
  return end;
}

SectorNumber SectorMap::find_set(SectorNumber from, SectorNumber end) const {
  const auto last = std::min(end, layout_.sectors_with_bit);
  HoleFinder holes(*this);
  while (from < last) {
    const auto chunk = from / chunk_sectors;
    const auto chunk_end = std::min(last, (chunk + 1) * chunk_sectors);
    // Within one chunk, reading it is as quick as asking for holes, and is kept.
    const bool long_way = last - from > chunk_sectors;
    if (!(long_way && holes.is_empty(chunk))) {
      ensure_loaded(chunk);
      const auto found = scan_chunk(from, chunk_end, 0);
      if (found < chunk_end) return found;
    }
    from = chunk_end;
  }
  return end;
}

SectorNumber SectorMap::find_clear(SectorNumber from, SectorNumber end) const {
  while (from < end) {
    if (from >= layout_.sectors_with_bit) return from;
    const auto chunk = from / chunk_sectors;
    const auto limit = std::min(end, layout_.sectors_with_bit);
    const auto chunk_end = std::min(limit, (chunk + 1) * chunk_sectors);
    ensure_loaded(chunk);
    const auto found = scan_chunk(from, chunk_end, ~Word{0});
    if (found < chunk_end) return found;
    from = chunk_end;
  }
  return end;
}

SectorMap::Run SectorMap::run(SectorNumber first, SectorCount limit) const {
  // Short runs inside one word are the common case; find_* handle all.
  const bool state = in_cow(first);
  const auto end = first + limit;
  const auto other = state ? find_clear(first + 1, end) : find_set(first + 1, end);
  return {other - first, state};
}

SectorCount SectorMap::count() const {
  SectorCount total = 0;
  HoleFinder holes(*this);
  for (std::size_t chunk = 0; chunk < chunks_; ++chunk) {
    if (holes.is_empty(chunk)) continue;
    ensure_loaded(chunk);
    for (std::size_t i = 0; i < chunk_words; ++i) {
      const auto word = words_[chunk * chunk_words + i].load(std::memory_order_relaxed);
      total += static_cast<SectorCount>(std::popcount(word));
    }
  }
  return total;
}

void SectorMap::mark_dirty(std::size_t chunk) {
  dirty_chunks_[chunk / 64].fetch_or(Word{1} << (chunk % 64), std::memory_order_release);
  any_dirty_.store(true, std::memory_order_release);
}

/// Calls function(index of a word, mask of its bits in the range) for each word of the range.
template <typename Function>
void SectorMap::for_each_word(SectorNumber first, SectorNumber end, Function&& function) {
  while (first < end) {
    const auto bit = static_cast<unsigned>(first % word_sectors);
    const auto span = std::min<SectorCount>(end - first, word_sectors - bit);
    function(first / word_sectors, mask_of(bit, span));
    first += span;
  }
}

void SectorMap::prepare(SectorNumber first, SectorCount count) {
  const auto last = (first + count - 1) / chunk_sectors;
  for (auto chunk = first / chunk_sectors; chunk <= last; ++chunk) {
    ensure_loaded(chunk);
    if (reserved_[chunk].load(std::memory_order_relaxed) == 0) reserve(chunk);
  }
}

void SectorMap::reserve(std::size_t chunk) {
  const auto offset = chunk * chunk_bytes;
  const auto length = std::min<std::uint64_t>(chunk_bytes, layout_.bitmap_length - offset);
  try {
    cow_.reserve(layout_.bitmap_offset + offset, length);
  } catch (const std::system_error& error) {
    // A file system that can't reserve has to do without.
    if (error.code() != std::errc::operation_not_supported) throw;
  }
  pending_store_->reserve(chunk * chunk_words, chunk_words);
  reserved_[chunk].store(1, std::memory_order_relaxed);
}

void SectorMap::set(SectorNumber first, SectorCount count) {
  const auto end = first + count;
  while (first < end) {
    const auto chunk = first / chunk_sectors;
    const auto chunk_end = std::min(end, (chunk + 1) * chunk_sectors);
    set_in_chunk(chunk, first, chunk_end);
    first = chunk_end;
  }
}

/// Whoever finds a bit set may rely on it and flush at once, and that flush must find it: so first
/// pending, then dirty, then visible.
void SectorMap::set_in_chunk(std::size_t chunk, SectorNumber first, SectorNumber end) {
  bool changed = false;
  for_each_word(first, end, [&](std::size_t index, Word mask) {
    const auto missing = mask & ~words_[index].load(std::memory_order_acquire);
    if (missing == 0) return;
    pending_[index].fetch_or(missing, std::memory_order_release);
    changed = true;
  });
  if (!changed) return;
  mark_dirty(chunk);
  for_each_word(first, end, [&](std::size_t index, Word mask) {
    words_[index].fetch_or(mask, std::memory_order_release);
  });
}

void SectorMap::take_pending(PendingWords& into) {
  into.clear();
  if (!any_dirty_.exchange(false, std::memory_order_acq_rel)) return;
  for (std::size_t group = 0; group < dirty_chunks_.size(); ++group) {
    if (dirty_chunks_[group].load(std::memory_order_relaxed) == 0) continue;
    auto dirty = dirty_chunks_[group].exchange(0, std::memory_order_acq_rel);
    for (; dirty != 0; dirty &= dirty - 1) {
      take_chunk(group * 64 + static_cast<std::size_t>(std::countr_zero(dirty)), into);
    }
  }
}

/// Takes the stretch from the first to the last word of the chunk that has pending bits.
void SectorMap::take_chunk(std::size_t chunk, PendingWords& into) {
  const auto begin = chunk * chunk_words;
  auto first = begin + chunk_words;
  auto last = begin;
  for (auto i = begin; i < begin + chunk_words; ++i) {
    if (pending_[i].load(std::memory_order_acquire) == 0) continue;
    first = std::min(first, i);
    last = i + 1;
  }
  if (first >= last) return;
  into.stretches.push_back({first, last - first, into.values.size()});
  for (auto i = first; i < last; ++i) {
    const auto pending = pending_[i].load(std::memory_order_acquire);
    // Made visible here if its setter has not come so far yet: once settled, a bit is in no later
    // picture of its word but through words_.
    const auto visible = pending == 0 ? words_[i].load(std::memory_order_acquire)
                                      : words_[i].fetch_or(pending, std::memory_order_acq_rel);
    into.pending.push_back(pending);
    into.values.push_back(pending | visible);
  }
}

void SectorMap::write_pending(const PendingWords& words) {
  std::array<Word, chunk_words> buffer;
  for (const auto& stretch : words.stretches) {
    for (std::size_t i = 0; i < stretch.words; ++i) {
      buffer[i] = swap_if_big(words.values[stretch.at + i]);
    }
    const auto offset = stretch.first_word * sizeof(Word);
    const auto length =
        std::min<std::uint64_t>(stretch.words * sizeof(Word), layout_.bitmap_length - offset);
    cow_.write(layout_.bitmap_offset + offset, std::as_bytes(std::span(buffer)).first(length));
  }
}

void SectorMap::settle(const PendingWords& words) {
  for (const auto& stretch : words.stretches) {
    for (std::size_t i = 0; i < stretch.words; ++i) {
      pending_[stretch.first_word + i].fetch_and(~words.pending[stretch.at + i],
                                                 std::memory_order_acq_rel);
    }
  }
}

}  // namespace cowfs::core
