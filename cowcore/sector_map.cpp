#include "cowcore/sector_map.hpp"

#include <algorithm>
#include <bit>
#include <system_error>

namespace cowfs::core {
namespace {

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

/// Finds the chunks that may have a bit set: those in memory, and those that are no hole of the
/// file. Remembers what the file has answered, so that one question serves many chunks.
class SectorMap::ChunkFinder {
 public:
  explicit ChunkFinder(const SectorMap& map) : map_(map) {}

  /// The first such chunk in [chunk, end), or `end`.
  std::size_t next(std::size_t chunk, std::size_t end) {
    if (chunk >= end) return end;
    const auto in_file = std::min(end, next_in_file(chunk));
    return map_.loaded_.find(chunk, in_file);
  }

 private:
  std::size_t next_in_file(std::size_t chunk) {
    const auto at = map_.layout_.bitmap_offset + chunk * chunk_bytes;
    if (at < asked_from_ || at >= data_end_) ask(at);
    if (at >= data_begin_) return chunk;
    if (data_begin_ == none) return map_.chunks_;
    return (data_begin_ - map_.layout_.bitmap_offset) / chunk_bytes;
  }

  void ask(std::uint64_t at) {
    asked_from_ = at;
    data_begin_ = map_.cow_.next_data(at).value_or(none);
    data_end_ = data_begin_ == none ? none : map_.cow_.next_hole(data_begin_);
  }

  static constexpr auto none = ~std::uint64_t{0};

  const SectorMap& map_;
  // From asked_from_ on there is a hole up to data_begin_, then data up to data_end_.
  std::uint64_t asked_from_ = none;
  std::uint64_t data_begin_ = none;
  std::uint64_t data_end_ = none;
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
      dirty_(chunks_) {
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
  dirty_.set(word / chunk_words);
  words_[word].fetch_or(bits, std::memory_order_release);
}

/// The bits of a word that stand for sectors; the others may hold anything in the file.
SectorMap::Word SectorMap::valid_bits(std::size_t word) const {
  const auto first = word * word_sectors;
  if (first >= layout_.sectors_with_bit) return 0;
  return mask_of(0, layout_.sectors_with_bit - first);
}

void SectorMap::ensure_loaded(std::size_t chunk) const {
  if (!loaded_.test(chunk)) load(chunk);
}

/// Reads a chunk as it is in the file, without the bits that stand for no sector.
void SectorMap::read_chunk(std::size_t chunk, Chunk& into) const {
  const auto offset = chunk * chunk_bytes;
  const auto length = std::min<std::uint64_t>(chunk_bytes, layout_.bitmap_length - offset);
  const auto bytes = std::as_writable_bytes(std::span(into));
  const auto count = cow_.read(layout_.bitmap_offset + offset, bytes.first(length));
  std::ranges::fill(bytes.subspan(count), std::byte{});
  for (std::size_t i = 0; i < chunk_words; ++i) {
    into[i] = swap_if_big(into[i]) & valid_bits(chunk * chunk_words + i);
  }
}

void SectorMap::load(std::size_t chunk) const {
  const std::lock_guard guard(load_mutex_[chunk % load_mutex_.size()]);
  if (loaded_.test(chunk)) return;
  Chunk read;
  read_chunk(chunk, read);
  for (std::size_t i = 0; i < chunk_words; ++i) {
    // Writing a zero would cost the page that the array does not have yet.
    if (read[i] == 0) continue;
    words_[chunk * chunk_words + i].store(read[i], std::memory_order_relaxed);
  }
  loaded_.set(chunk);
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
  const auto chunks_end = (last + chunk_sectors - 1) / chunk_sectors;
  ChunkFinder chunks(*this);
  while (from < last) {
    auto chunk = from / chunk_sectors;
    // Within one chunk, reading it is as quick as asking for holes, and is kept.
    if (last - from > chunk_sectors) {
      chunk = chunks.next(chunk, chunks_end);
      from = std::max(from, chunk * chunk_sectors);
      if (from >= last) break;
    }
    const auto chunk_end = std::min(last, (chunk + 1) * chunk_sectors);
    ensure_loaded(chunk);
    const auto found = scan_chunk(from, chunk_end, 0);
    if (found < chunk_end) return found;
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
  ChunkFinder chunks(*this);
  Chunk read;
  for (std::size_t chunk = 0; (chunk = chunks.next(chunk, chunks_)) < chunks_; ++chunk) {
    const bool loaded = loaded_.test(chunk);
    if (!loaded) read_chunk(chunk, read);
    for (std::size_t i = 0; i < chunk_words; ++i) {
      const auto word =
          loaded ? words_[chunk * chunk_words + i].load(std::memory_order_relaxed) : read[i];
      total += static_cast<SectorCount>(std::popcount(word));
    }
  }
  return total;
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
  dirty_.set(chunk);
  for_each_word(first, end, [&](std::size_t index, Word mask) {
    words_[index].fetch_or(mask, std::memory_order_release);
  });
}

void SectorMap::take_pending(PendingWords& into) {
  into.clear();
  dirty_.take([&](std::size_t chunk) { take_chunk(chunk, into); });
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
