// File data past the daemon: the worker's side of kernel passthrough.
//
// The kernel reads and writes a backing file by itself for an open that names one. To register a
// file takes CAP_SYS_ADMIN in the first user namespace, which the worker has not: it hands its
// descriptor to the broker, which does that one call (hostfs/broker.hpp). An inode is backed for
// all of its opens, or for none, with one registration; the first open decides, and the last
// release ends it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "cowcore/file_descriptor.hpp"
#include "hostfs/node_table.hpp"

namespace cowfs::hostfs {

/// Thread safety: all functions may be called at once.
class Passthrough {
 public:
  /// `broker` is a socket to the broker; none: no passthrough.
  explicit Passthrough(core::FileDescriptor broker) : broker_(std::move(broker)) {}

  [[nodiscard]] bool is_possible() const { return static_cast<bool>(broker_); }
  /// The kernel has agreed to it. To be called before anything is opened.
  void enable() { enabled_ = is_possible(); }
  [[nodiscard]] bool is_enabled() const { return enabled_; }

  /// Counts an open of `node` by way of `fd`; returns the id of its backing file, 0 if it has none.
  std::int32_t open(Node& node, int fd);
  /// Takes back what open() counted.
  void close(Node& node);

 private:
  std::int32_t register_file(int fd);

  core::FileDescriptor broker_;
  bool enabled_ = false;
  std::mutex mutex_;  ///< guards the nodes' `opens` and `backing_id`, and the talk with the broker
};

}  // namespace cowfs::hostfs
