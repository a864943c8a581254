#include "fuse/page_cache.hpp"

#include <linux/close_range.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <system_error>

#include "cowcore/sector.hpp"

namespace cowfs::fuse {
namespace {

/// Ranges that follow each other are dropped together up to this length.
constexpr std::uint64_t longest_range = std::uint64_t{1} << 20;

/// How much is dropped before a look at what else is to be done, as a part of the window.
constexpr std::uint64_t batch_part = 8;

/// How long a plain write waits for a page in doubt to be dropped. It ends at once, but for a page
/// that the write itself has locked, as the kernel does with one that was not in the cache: nobody
/// can have read that one meanwhile, and it can't be dropped before the write is answered.
constexpr auto longest_doubt = std::chrono::milliseconds(100);

/// Leaves the calling thread with no descriptor but a clone of the device. Nothing if that can't be
/// had: no right to open /dev/fuse, or a kernel before Linux 5.9.
std::optional<Device> keep_only_a_clone(const Device& shared) {
  try {
    auto device = shared.clone();
    const auto fd = static_cast<unsigned>(device.descriptor());
    if (::close_range(0, fd - 1, CLOSE_RANGE_UNSHARE) != 0) return std::nullopt;
    ::close_range(fd + 1, ~0U, 0);
    return device;
  } catch (const std::system_error&) {
    return std::nullopt;
  }
}

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
      answering_([this](const std::stop_token& stop) { answer(stop); }),
      dropping_thread_([this](const std::stop_token& stop) { work(stop); }) {}

PageCache::~PageCache() { stop(); }

void PageCache::stop() {
  for (auto* thread : {&dropping_thread_, &answering_}) {
    thread->request_stop();
    if (thread->joinable()) thread->join();
  }
}

void PageCache::add(const Range& range) {
  auto* last = ranges_.empty() ? nullptr : &ranges_[ranges_.size() - 1];
  if (last != nullptr && last->offset + last->length == range.offset &&
      last->length + range.length <= longest_range) {
    last->length += range.length;
    last->in_doubt = std::max(last->in_doubt, range.in_doubt);
  } else {
    ranges_.push(range);
  }
  const bool was_over = over_window();
  cached_ += range.length;
  if (!was_over && over_window()) changed_.notify_one();
}

void PageCache::note_read(std::uint64_t offset, std::uint64_t length) {
  if (window_ == unlimited) return;
  const std::lock_guard guard(mutex_);
  any_in_doubt_ = any_in_doubt_ || dropped_;
  add({offset, length, dropped_ ? epoch_ : 0});
}

void PageCache::note_written(std::uint64_t offset, std::uint64_t length) {
  if (window_ == unlimited) return;
  const std::lock_guard guard(mutex_);
  add({offset, length, 0});
}

bool PageCache::is_in_doubt(std::uint64_t offset, std::uint64_t length) {
  if (doubt_all_ || !any_in_doubt_) return doubt_all_;
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto end = core::round_up(offset + length, page);
  offset = core::round_down(offset, page);
  const auto hits = [&](const Range& range) {
    return range.in_doubt == epoch_ && range.offset < end && offset < range.offset + range.length;
  };
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    if (hits(ranges_[i])) return true;
  }
  return std::any_of(batch_.ranges.begin(),
                     batch_.ranges.begin() + static_cast<std::ptrdiff_t>(batch_.count), hits);
}

void PageCache::settle_plain_write(std::uint64_t offset, std::uint64_t length) {
  std::unique_lock lock(mutex_);
  const bool in_doubt = is_in_doubt(offset, length);
  // The next plain write begins after this one is answered.
  ++epoch_;
  dropped_ = dropping_;
  any_in_doubt_ = false;
  doubt_all_ = false;
  if (!in_doubt || stopped_) return;
  awaited_.push_back({0, offset, static_cast<std::uint32_t>(length)});
  changed_.notify_one();
  settled_more_.wait_for(lock, longest_doubt,
                         [this, turn = ++in_doubt_] { return stopped_ || settled_ >= turn; });
}

void PageCache::answer_direct_write(std::uint64_t unique, std::uint64_t offset,
                                    std::uint32_t length) {
  std::unique_lock lock(mutex_);
  if (!stopped_) {
    awaited_.push_back({unique, offset, length});
    changed_.notify_one();
    return;
  }
  lock.unlock();
  device_.reply_with(unique, fuse_write_out{length, 0});
}

void PageCache::drop(const Device& device, std::vector<AwaitedDrop>& drops) {
  for (const auto& awaited : drops) {
    device.invalidate(node_, awaited.offset, awaited.length);
    const std::lock_guard guard(mutex_);
    if (awaited.unique != 0) {
      answers_.push_back({awaited.unique, awaited.length});
      answerable_.notify_one();
    } else {
      ++settled_;
      settled_more_.notify_all();
    }
  }
  drops.clear();
}

void PageCache::drop(const Device& device, const Batch& batch) {
  for (std::size_t i = 0; i < batch.count; ++i) {
    device.invalidate(node_, batch.ranges[i].offset, batch.ranges[i].length);
  }
}

void PageCache::answer(const std::stop_token& stop) {
  std::vector<Answer> answers;
  std::unique_lock lock(mutex_);
  while (answerable_.wait(lock, stop, [this] { return !answers_.empty(); })) {
    answers.swap(answers_);
    lock.unlock();
    for (const auto& [unique, length] : answers) {
      device_.reply_with(unique, fuse_write_out{length, 0});
    }
    answers.clear();
    lock.lock();
  }
}

void PageCache::take_batch() {
  // Once over, go a little below: waking up for each range would cost more than dropping it.
  const auto keep = window_ - window_ / batch_part;
  batch_.count = 0;
  if (!over_window()) return;
  while (batch_.count < Batch::most && !ranges_.empty() && cached_ > keep) {
    const auto range = ranges_.pop();
    batch_.ranges[batch_.count++] = range;
    cached_ -= range.length;
  }
}

void PageCache::work(const std::stop_token& stop) {
  ::pthread_setname_np(::pthread_self(), dropping_thread);
  const auto clone = keep_only_a_clone(device_);
  const auto& device = clone ? *clone : device_;
  std::vector<AwaitedDrop> drops;
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return over_window() || !awaited_.empty(); })) {
    drops.swap(awaited_);
    if (drops.empty()) take_batch();
    dropping_ = dropped_ = true;
    lock.unlock();
    drop(device, drops);
    drop(device, batch_);
    lock.lock();
    batch_.count = 0;
    dropping_ = false;
  }
  stopped_ = true;
  settled_more_.notify_all();
  drops.swap(awaited_);
  lock.unlock();
  drop(device, drops);
}

}  // namespace cowfs::fuse
