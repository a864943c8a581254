#include "hostfs/pruner.hpp"

#include <chrono>

namespace cowfs::hostfs {
namespace {

/// Few enough that a round ends soon after there is room.
constexpr std::size_t at_once = 128;

}  // namespace

Pruner::Pruner(NodeTable& nodes, const fuse::Device& device)
    : nodes_(nodes),
      device_(device),
      crowded_(nodes.limit() - nodes.limit() / 8),
      roomy_(nodes.limit() - nodes.limit() / 4),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

void Pruner::wake() {
  if (!is_possible()) return;
  const std::lock_guard guard(mutex_);
  wanted_ = true;
  changed_.notify_one();
}

void Pruner::run(const std::stop_token& stop) {
  while (!stop.stop_requested() && is_possible()) {
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [this] { return wanted_; })) return;
      wanted_ = false;
    }
    prune(stop);
  }
}

/// Once round the table at most: what is left is in use.
void Pruner::prune(const std::stop_token& stop) {
  const auto rounds = nodes_.size() / at_once + 1;
  for (std::uint32_t i = 0; i < rounds && nodes_.size() > roomy_; ++i) {
    if (stop.stop_requested()) return;
    if (!device_.prune(nodes_.some_idle(cursor_, at_once))) {
      possible_ = false;
      return;
    }
    // What the kernel forgets comes as requests. Until they were taken, the table looks full.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace cowfs::hostfs
