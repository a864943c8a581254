// Group commit: callers that arrive while a slow call runs share the next one.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>

namespace cowfs::core {

/// Thread safety: run may be called from several threads at once.
class JoinedCalls {
 public:
  /// Returns when a whole run of `call` that began after this function was entered has ended; at
  /// most one runs at a time. Throws what the last such run threw.
  template <typename Call>
  void run(Call&& call) {
    std::unique_lock lock(mutex_);
    // The run under way, if any, may have begun before what the caller wants covered.
    const auto wanted = started_ + 1;
    while (ended_ < wanted) {
      if (running_) {
        changed_.wait(lock);
      } else {
        lead(lock, call);
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  template <typename Call>
  void lead(std::unique_lock<std::mutex>& lock, Call& call) {
    running_ = true;
    ++started_;
    lock.unlock();
    std::exception_ptr error;
    try {
      call();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    running_ = false;
    ended_ = started_;
    error_ = error;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t started_ = 0;
  std::uint64_t ended_ = 0;
  bool running_ = false;
  std::exception_ptr error_;  // of the run that ended last
};

}  // namespace cowfs::core
