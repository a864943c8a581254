// Flushes now and then, because some users of a disk never ask (UML among them).
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "cowcore/cow_image.hpp"
#include "fuse/log.hpp"

namespace cowfs::fuse {

/// Flushes `image` every `interval` while this object lives. A failure is logged, once: it is
/// final.
class CommitTimer {
 public:
  CommitTimer(core::CowImage& image, std::chrono::seconds interval, Log& log);

 private:
  void work(const std::stop_token& stop, std::chrono::seconds interval);

  core::CowImage& image_;
  Log& log_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;
};

}  // namespace cowfs::fuse
