#include "cowcore/range_copier.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "cowcore/sector.hpp"
#include "cowcore/zeros.hpp"

namespace cowfs::core {
namespace {

/// Fits into the caches of a processor, and is worth a system call.
constexpr std::size_t buffer_bytes = std::size_t{128} << 10;
/// Every file system of today has blocks of this size, or smaller ones.
constexpr std::uint64_t block_bytes = 4096;
/// Sharing less makes more fragments than it saves.
constexpr std::uint64_t shortest_share = std::uint64_t{64} << 10;
/// The disk works while the rest is copied.
constexpr std::uint64_t between_syncs = std::uint64_t{16} << 20;
/// So that progress is told, and a user who wants to stop is heard.
constexpr std::uint64_t longest_share = std::uint64_t{1} << 30;

}  // namespace

RangeCopier::RangeCopier(Storage& to, Holes holes, Copied copied)
    : to_(to), holes_(holes), copied_(std::move(copied)), buffer_(buffer_bytes) {}

void RangeCopier::copy(const Storage& from, std::uint64_t from_offset, std::uint64_t to_offset,
                       std::uint64_t length) {
  if (length >= shortest_share && from_offset % block_bytes == to_offset % block_bytes) {
    const auto head = std::min(length, round_up(to_offset, block_bytes) - to_offset);
    copy_bytes(from, from_offset, to_offset, head);
    const auto shared = share(from, from_offset + head, to_offset + head, length - head);
    from_offset += head + shared;
    to_offset += head + shared;
    length -= head + shared;
  }
  copy_bytes(from, from_offset, to_offset, length);
}

std::uint64_t RangeCopier::share(const Storage& from, std::uint64_t from_offset,
                                 std::uint64_t to_offset, std::uint64_t length) {
  length = round_down(length, block_bytes);
  std::uint64_t done = 0;
  while (done < length && !unshareable_.contains(&from)) {
    const auto piece = std::min(length - done, longest_share);
    const auto count = to_.clone_from(from, from_offset + done, to_offset + done, piece);
    if (count == 0) unshareable_.insert(&from);
    done += count;
    if (count > 0) copied_(count);
  }
  return done;
}

/// The place in the buffer for what belongs there; at most `length` bytes, at least one.
std::span<std::byte> RangeCopier::room_at(std::uint64_t offset, std::uint64_t length) {
  // Writes end at multiples of the buffer's length, so that they are of whole blocks.
  const auto window_end = round_down(begin_, buffer_bytes) + buffer_bytes;
  if (filled_ > 0 && (begin_ + filled_ != offset || offset == window_end)) finish();
  if (filled_ == 0) begin_ = offset;
  const auto room = round_down(begin_, buffer_bytes) + buffer_bytes - offset;
  return std::span(buffer_).subspan(filled_, std::min(length, room));
}

void RangeCopier::copy_bytes(const Storage& from, std::uint64_t from_offset,
                             std::uint64_t to_offset, std::uint64_t length) {
  while (length > 0) {
    const auto into = room_at(to_offset, length);
    std::ranges::fill(into.subspan(from.read(from_offset, into)), std::byte{});
    filled_ += into.size();
    from_offset += into.size();
    to_offset += into.size();
    length -= into.size();
  }
}

void RangeCopier::copy_or_zero(const Storage& from, std::uint64_t from_offset,
                               std::uint64_t to_offset, std::uint64_t length) {
  while (length > 0) {
    const auto into = room_at(to_offset, length);
    std::ranges::fill(into.subspan(from.read(from_offset, into)), std::byte{});
    if (is_zeros(into)) {
      zero(to_offset, into.size());
    } else {
      filled_ += into.size();
    }
    from_offset += into.size();
    to_offset += into.size();
    length -= into.size();
  }
}

void RangeCopier::zero(std::uint64_t offset, std::uint64_t length) {
  if (holes_ == Holes::are_there) return;
  finish();
  to_.punch(offset, length);
}

void RangeCopier::finish() {
  if (filled_ == 0) return;
  to_.write(begin_, std::span(buffer_).first(filled_));
  const auto count = std::exchange(filled_, 0);
  if (unsynced_ == 0) unsynced_begin_ = begin_;
  unsynced_ += count;
  if (unsynced_ >= between_syncs) {
    to_.begin_sync(unsynced_begin_, begin_ + count - unsynced_begin_);
    unsynced_ = 0;
  }
  copied_(count);
}

}  // namespace cowfs::core
