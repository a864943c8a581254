#include "fuse/heartbeat.hpp"

#include <unistd.h>

#include <cerrno>
#include <chrono>

namespace cowfs::fuse {

Heartbeat::Heartbeat(core::FileDescriptor control, std::function<bool()> is_alive, Log& log)
    : control_(std::move(control)),
      is_alive_(std::move(is_alive)),
      log_(log),
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

bool Heartbeat::send(WorkerSign sign) const {
  const auto byte = static_cast<char>(sign);
  // A full pipe is a supervisor that is slow, not one that is gone.
  return ::write(control_.get(), &byte, 1) == 1 || errno == EAGAIN || errno == EINTR;
}

void Heartbeat::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  bool supervised = send(WorkerSign::ready);
  while (supervised && !stop.stop_requested()) {
    stopped_.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; });
    if (is_alive_()) supervised = send(WorkerSign::alive);
  }
  if (!supervised) log_.warning("the supervisor is gone: a worker that dies now ends the mount");
}

}  // namespace cowfs::fuse
