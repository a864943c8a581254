// What is done now and then without being asked for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "cowcore/cow_image.hpp"
#include "fuse/backing_guard.hpp"
#include "fuse/log.hpp"

namespace cowfs::fuse {

/// While it lives: flushes the image every `interval` (never if that is 0), because some users of a
/// disk never ask, UML among them; and looks after the backing. A flush that fails is logged, once:
/// it is final.
class CommitTimer {
 public:
  CommitTimer(core::CowImage& image, BackingGuard& guard, std::chrono::seconds interval, Log& log);

 private:
  void work(const std::stop_token& stop);
  void flush();

  core::CowImage& image_;
  BackingGuard& guard_;
  const std::chrono::seconds interval_;
  Log& log_;
  bool failed_ = false;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;
};

}  // namespace cowfs::fuse
