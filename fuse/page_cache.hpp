// What the kernel may keep cached of a file that we serve.
//
// Programs that read a little at a time need the kernel's readahead, and so a page cache; but every
// page that it holds of the merged file is a second copy of a page of the backing. So only a window
// is left cached: the ranges that were served last. And a file that is open both plainly and with
// O_DIRECT needs help to show one content: a direct write does not see pages that a plain reader
// brings in meanwhile.
//
// Dropping a page waits until the kernel has finished reading it, that is, until a thread of the
// session has answered. So it is done by one thread of its own, for which no other ever waits.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "fuse/device.hpp"

namespace cowfs::fuse {

/// The name of that thread. When the process is killed it may be the only one that stays: its wait
/// ends when the next worker answers. It touches neither COW nor backing.
inline constexpr const char* dropping_thread = "cowfs-drop";

/// Thread safety: all functions may be called at once.
class PageCache {
 public:
  static constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

  /// `node` is the file's number in the session, `window` how many bytes of it stay cached.
  PageCache(const Device& device, std::uint64_t node, std::uint64_t window);
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;
  ~PageCache();

  /// The range has entered the kernel's cache.
  void note_cached(std::uint64_t offset, std::uint64_t length);

  /// Ends the thread, after what it is about; nothing is dropped from then on. To be called before
  /// the session stops serving a mount that is in use: the thread may be waiting for an answer.
  void stop();

  /// Drops the range from the cache and then answers the write `unique`.
  void answer_direct_write(std::uint64_t unique, std::uint64_t offset, std::uint32_t length);

 private:
  struct Range {
    std::uint64_t offset;
    std::uint64_t length;
  };
  struct DirectWrite {
    std::uint64_t unique;
    std::uint64_t offset;
    std::uint32_t length;
  };

  /// The cached ranges, oldest first. Grows to the longest queue there was, and no more.
  class Queue {
   public:
    [[nodiscard]] bool empty() const { return count_ == 0; }
    Range& back() { return ring_[(first_ + count_ - 1) % ring_.size()]; }
    void push(const Range& range);
    Range pop();

   private:
    std::vector<Range> ring_ = std::vector<Range>(64);
    std::size_t first_ = 0;
    std::size_t count_ = 0;
  };

  void work(const std::stop_token& stop);
  void answer(std::vector<DirectWrite>& writes);
  [[nodiscard]] bool over_window() const { return cached_ > window_; }

  const Device& device_;
  const std::uint64_t node_;
  const std::uint64_t window_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable_any changed_;
  Queue ranges_;
  std::uint64_t cached_ = 0;  ///< bytes in `ranges_`
  std::vector<DirectWrite> direct_writes_;
  bool stopped_ = false;

  std::jthread thread_;
};

}  // namespace cowfs::fuse
