// Keeping the number of inodes that the kernel knows below the limit.
//
// The kernel forgets an inode when it is short of memory, which may be long after the export has
// run out of descriptors. So when the table is nearly full, the kernel is asked to forget inodes
// that nobody uses (FUSE_NOTIFY_PRUNE, Linux 6.18; an older kernel refuses, and the limit stands).
// It is asked from a thread of its own: it drops them at once, and sends what it has forgotten as
// requests, which the serving threads have to be free to take.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <thread>

#include "fuse/device.hpp"
#include "hostfs/node_table.hpp"

namespace cowfs::hostfs {

/// Thread safety: note_size may be called from several threads at once.
class Pruner {
 public:
  /// Both must outlive it. The thread has the rights of the one that constructs this.
  Pruner(NodeTable& nodes, const fuse::Device& device);

  /// To be told of the table's size after a node was added. Costs nothing while there is room.
  void note_size(std::uint32_t size) {
    if (size >= crowded_) wake();
  }

  /// Whether pruning can help: the kernel has not refused it.
  [[nodiscard]] bool is_possible() const { return possible_.load(std::memory_order_relaxed); }

 private:
  void wake();
  void run(const std::stop_token& stop);
  void prune(const std::stop_token& stop);

  NodeTable& nodes_;
  const fuse::Device& device_;
  const std::uint32_t crowded_;  ///< from this size on there is too little room
  const std::uint32_t roomy_;    ///< at this size there is room enough
  std::atomic<bool> possible_ = true;
  std::mutex mutex_;  ///< guards `wanted_`
  std::condition_variable_any changed_;
  bool wanted_ = false;
  std::uint32_t cursor_ = 0;  ///< where the last round has ended; of the thread
  std::jthread thread_;       ///< last: it uses what is above
};

}  // namespace cowfs::hostfs
