// What the kernel may keep cached of a file that we serve.
//
// Programs that read a little at a time need the kernel's readahead, and so a page cache; but every
// page that it holds of the merged file is a second copy of a page of the backing. So only a window
// is left cached: the ranges that were served last. And a file that is open both plainly and with
// O_DIRECT needs help to show one content: a direct write does not see pages that a plain reader
// brings in meanwhile.
//
// Dropping has a danger of its own. The kernel puts what a plain write brings into its cached pages
// first, and then sends us the write. If such a page is dropped in between, and read again before
// we serve the write, the cache is left with the old content, for good. Of plain writes to one file
// there is only one on its way at a time (the inode's lock), and it began after the one before it
// was answered. So the pages in doubt are known: those that were read into the cache after
// something was dropped, both since the last plain write was answered. A write to such a page is
// answered after the page was dropped once more.
//
// Dropping a page waits until the kernel has finished reading it, that is, until a thread of the
// session has answered. So it is done by one thread of its own, for which no thread that answers
// ever waits for long. When the process is killed that thread may be the only one that stays: its
// wait ends when the next worker answers, or, with no other worker to come, when the kernel ends
// the requests of a connection whose descriptor is closed. Nothing of a dead process may keep that
// one open. So the thread has a table of descriptors of its own, and there only a clone of it.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "fuse/device.hpp"

namespace cowfs::fuse {

/// The name of that thread. It touches neither COW nor backing.
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

  /// A worker before this one may have dropped and read what it liked. To be called before the
  /// session serves.
  void assume_dropped() { doubt_all_ = true; }

  /// The range is about to be read for the kernel's cache. To be called before the image is read.
  void note_read(std::uint64_t offset, std::uint64_t length);

  /// A write that went through the kernel's cache has left the range there.
  void note_written(std::uint64_t offset, std::uint64_t length);

  /// A plain write of the range is in the image. Returns when it may be answered.
  void settle_plain_write(std::uint64_t offset, std::uint64_t length);

  /// Ends the thread, after what it is about; nothing is dropped from then on. To be called before
  /// the session stops serving a mount that is in use: the thread may be waiting for an answer.
  void stop();

  /// Drops the range from the cache and then answers the write `unique`.
  void answer_direct_write(std::uint64_t unique, std::uint64_t offset, std::uint32_t length);

 private:
  /// Counts the plain writes that were settled.
  using Epoch = std::uint64_t;

  struct Range {
    std::uint64_t offset;
    std::uint64_t length;
    Epoch in_doubt;  ///< the last epoch in which a part of it was read after a drop; 0 for none
  };
  /// A range that somebody waits for to be dropped.
  struct AwaitedDrop {
    std::uint64_t unique;  ///< the direct write to answer then; 0 for a plain write that is settled
    std::uint64_t offset;
    std::uint32_t length;
  };

  /// The cached ranges, oldest first. Grows to the longest queue there was, and no more.
  class Queue {
   public:
    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] std::size_t size() const { return count_; }
    Range& operator[](std::size_t i) { return ring_[(first_ + i) % ring_.size()]; }
    void push(const Range& range);
    Range pop();

   private:
    std::vector<Range> ring_ = std::vector<Range>(64);
    std::size_t first_ = 0;
    std::size_t count_ = 0;
  };

  struct Answer {
    std::uint64_t unique;
    std::uint32_t length;
  };

  /// Ranges that were dropped together; a bounded number.
  struct Batch {
    static constexpr std::size_t most = 256;
    std::array<Range, most> ranges;
    std::size_t count = 0;
  };

  void work(const std::stop_token& stop);
  void add(const Range& range);
  void take_batch();
  void drop(const Device& device, const Batch& batch);
  void drop(const Device& device, std::vector<AwaitedDrop>& drops);
  void answer(const std::stop_token& stop);
  [[nodiscard]] bool is_in_doubt(std::uint64_t offset, std::uint64_t length);
  [[nodiscard]] bool over_window() const { return cached_ > window_; }

  const Device& device_;
  const std::uint64_t node_;
  const std::uint64_t window_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable_any changed_;
  Queue ranges_;
  std::uint64_t cached_ = 0;  ///< bytes in `ranges_`
  Batch batch_;               ///< being dropped; changed by the thread only
  std::vector<AwaitedDrop> awaited_;
  std::vector<Answer> answers_;
  std::condition_variable_any answerable_;
  std::uint64_t in_doubt_ = 0;  ///< how many plain writes were
  std::uint64_t settled_ = 0;   ///< and for how many of them the range was dropped
  std::condition_variable settled_more_;
  Epoch epoch_ = 1;
  bool dropping_ = false;      ///< right now
  bool dropped_ = false;       ///< in this epoch
  bool any_in_doubt_ = false;  ///< in this epoch
  bool doubt_all_ = false;
  bool stopped_ = false;

  std::jthread answering_;
  std::jthread dropping_thread_;
};

}  // namespace cowfs::fuse
