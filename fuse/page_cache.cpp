#include "fuse/page_cache.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>

namespace cowfs::fuse {
namespace {

/// Ranges that follow each other are dropped together up to this length.
constexpr std::uint64_t longest_range = std::uint64_t{1} << 20;

/// How much is dropped before a look at what else is to be done, as a part of the window.
constexpr std::uint64_t batch_part = 8;

constexpr std::size_t batch_ranges = 256;

}  // namespace

void PageCache::Queue::push(const Range& range) {
  if (count_ == ring_.size()) {
    std::rotate(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(first_), ring_.end());
    first_ = 0;
    ring_.resize(2 * ring_.size());
  }
  ring_[(first_ + count_) % ring_.size()] = range;
  ++count_;
}

PageCache::Range PageCache::Queue::pop() {
  const auto range = ring_[first_];
  first_ = (first_ + 1) % ring_.size();
  --count_;
  return range;
}

PageCache::PageCache(const Device& device, std::uint64_t node, std::uint64_t window)
    : device_(device),
      node_(node),
      window_(window),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

PageCache::~PageCache() { stop(); }

void PageCache::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

void PageCache::note_cached(std::uint64_t offset, std::uint64_t length) {
  if (window_ == unlimited) return;
  const std::lock_guard guard(mutex_);
  const bool follows = !ranges_.empty() &&
                       ranges_.back().offset + ranges_.back().length == offset &&
                       ranges_.back().length + length <= longest_range;
  if (follows) {
    ranges_.back().length += length;
  } else {
    ranges_.push({offset, length});
  }
  const bool was_over = over_window();
  cached_ += length;
  if (!was_over && over_window()) changed_.notify_one();
}

void PageCache::answer_direct_write(std::uint64_t unique, std::uint64_t offset,
                                    std::uint32_t length) {
  std::unique_lock lock(mutex_);
  if (!stopped_) {
    direct_writes_.push_back({unique, offset, length});
    changed_.notify_one();
    return;
  }
  lock.unlock();
  device_.reply_with(unique, fuse_write_out{length, 0});
}

void PageCache::answer(std::vector<DirectWrite>& writes) {
  for (const auto& write : writes) {
    device_.invalidate(node_, write.offset, write.length);
    device_.reply_with(write.unique, fuse_write_out{write.length, 0});
  }
  writes.clear();
}

void PageCache::work(const std::stop_token& stop) {
  ::pthread_setname_np(::pthread_self(), dropping_thread);
  std::vector<DirectWrite> writes;
  std::array<Range, batch_ranges> batch;
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return over_window() || !direct_writes_.empty(); })) {
    writes.swap(direct_writes_);
    // Once over, go a little below: waking up for each range would cost more than dropping it.
    const auto keep = window_ - window_ / batch_part;
    std::size_t count = 0;
    while (writes.empty() && count < batch.size() && !ranges_.empty() && cached_ > keep) {
      batch[count] = ranges_.pop();
      cached_ -= batch[count].length;
      ++count;
    }
    lock.unlock();
    answer(writes);
    for (std::size_t i = 0; i < count; ++i) {
      device_.invalidate(node_, batch[i].offset, batch[i].length);
    }
    lock.lock();
  }
  stopped_ = true;
  writes.swap(direct_writes_);
  lock.unlock();
  answer(writes);
}

}  // namespace cowfs::fuse
