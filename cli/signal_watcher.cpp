#include "cli/signal_watcher.hpp"

#include <pthread.h>

#include <csignal>

namespace cowfs::cli {
namespace {

/// A signal that nothing else uses (SIGUSR2 is the session's).
int end_of_watch() { return SIGRTMIN; }

sigset_t watched_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, end_of_watch()})
    ::sigaddset(&signals, signal);
  return signals;
}

}  // namespace

void block_stop_signals() {
  const auto signals = watched_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

SignalWatcher::SignalWatcher(std::function<void(int)> on_signal)
    : thread_([on_signal = std::move(on_signal)] {
        const auto signals = watched_signals();
        int signal = 0;
        while (::sigwait(&signals, &signal) != 0) {
        }
        if (signal != end_of_watch()) on_signal(signal);
      }) {}

SignalWatcher::~SignalWatcher() { ::pthread_kill(thread_.native_handle(), end_of_watch()); }

}  // namespace cowfs::cli
