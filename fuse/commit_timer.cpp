#include "fuse/commit_timer.hpp"

#include <exception>

namespace cowfs::fuse {

CommitTimer::CommitTimer(core::CowImage& image, std::chrono::seconds interval, Log& log)
    : image_(image),
      log_(log),
      thread_([this, interval](const std::stop_token& stop) { work(stop, interval); }) {}

void CommitTimer::work(const std::stop_token& stop, std::chrono::seconds interval) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    stopped_.wait_for(lock, stop, interval, [] { return false; });
    try {
      if (image_.has_unflushed()) image_.flush();
    } catch (const std::exception& error) {
      log_.error(std::string(error.what()) + "; the image is read-only from now on");
      return;
    }
  }
}

}  // namespace cowfs::fuse
