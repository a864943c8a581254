#include "fuse/commit_timer.hpp"

#include <exception>

namespace cowfs::fuse {
namespace {

constexpr std::chrono::seconds look_after_backing{5};

}  // namespace

CommitTimer::CommitTimer(core::CowImage& image, BackingGuard& guard, std::chrono::seconds interval,
                         Log& log)
    : image_(image),
      guard_(guard),
      interval_(interval),
      log_(log),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

void CommitTimer::work(const std::stop_token& stop) {
  const bool flushes = interval_.count() > 0;
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    stopped_.wait_for(lock, stop, flushes ? interval_ : look_after_backing, [] { return false; });
    guard_.check();
    if (flushes && !failed_) flush();
  }
}

void CommitTimer::flush() {
  try {
    if (image_.has_unflushed()) image_.flush();
  } catch (const std::exception& error) {
    failed_ = true;
    log_.error(std::string(error.what()) + "; the image is read-only from now on");
  }
}

}  // namespace cowfs::fuse
