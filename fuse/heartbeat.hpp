// A worker's signs of life to its supervisor.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "cowcore/file_descriptor.hpp"
#include "fuse/log.hpp"
#include "fuse/supervisor.hpp"

namespace cowfs::fuse {

/// Tells the supervisor that the worker is ready, and then every second that it is alive, if it is.
class Heartbeat {
 public:
  /// `control` is the worker's end of the pipe.
  Heartbeat(core::FileDescriptor control, std::function<bool()> is_alive, Log& log);

 private:
  void work(const std::stop_token& stop);
  [[nodiscard]] bool send(WorkerSign sign) const;

  core::FileDescriptor control_;
  std::function<bool()> is_alive_;
  Log& log_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;
};

}  // namespace cowfs::fuse
