// Being asked to stop.
#pragma once

#include <functional>
#include <thread>

namespace cowfs::cli {

/// Blocks SIGTERM, SIGINT, SIGHUP and SIGUSR1 in this thread and all that it starts from now on, so
/// that a SignalWatcher can wait for them.
void block_stop_signals();

/// While it lives, the first of those signals calls a function, in a thread of its own.
class SignalWatcher {
 public:
  explicit SignalWatcher(std::function<void(int)> on_signal);
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;
  ~SignalWatcher();

 private:
  std::jthread thread_;
};

}  // namespace cowfs::cli
