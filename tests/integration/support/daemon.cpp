#include "tests/integration/support/daemon.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "fuse/control.hpp"

namespace cowfs::tests {
namespace {

using Clock = std::chrono::steady_clock;

/// One death fewer than the supervisor puts up with, in a time that is longer than its own.
constexpr std::size_t harmless_deaths = 4;
constexpr std::chrono::milliseconds harmless_within{10'500};

/// A process that ended in between is nothing.
std::optional<WatchedProcess> watch(pid_t pid) {
  try {
    return WatchedProcess(pid);
  } catch (const std::system_error&) {
    return std::nullopt;
  }
}

}  // namespace

Daemon daemon_behind(const core::FileDescriptor& merged) {
  fuse::DaemonStatus status{};
  if (::ioctl(merged.get(), fuse::get_daemon_status, &status) != 0) {
    throw std::system_error(errno, std::generic_category(), "ask for the daemon's number");
  }
  return {status.pid, status.worker, status.replaceable != 0};
}

pid_t worker_beside(pid_t supervisor) {
  const auto processes = cowfs_processes();
  const auto found = std::ranges::find_if(processes, [&](auto pid) { return pid != supervisor; });
  return found == processes.end() ? 0 : *found;
}

void WorkerKiller::wait_until_it_is_harmless() {
  while (deaths_.size() >= harmless_deaths) {
    std::this_thread::sleep_until(deaths_.front() + harmless_within);
    deaths_.pop_front();
  }
}

WatchedProcess WorkerKiller::next_worker() const {
  std::optional<WatchedProcess> worker;
  const bool found = eventually([&] {
    const auto pid = worker_beside(supervisor_);
    if (pid != 0 && pid != killed_) worker = watch(pid);
    return worker.has_value();
  });
  if (!found) throw std::runtime_error("there is no worker to kill");
  return std::move(*worker);
}

void WorkerKiller::kill_one() {
  const auto worker = next_worker();
  // The supervisor counts from when it saw the last one's death: by now, but maybe only now.
  if (!deaths_.empty()) deaths_.back() = Clock::now();
  wait_until_it_is_harmless();
  // Half of the workers are killed when they have hardly begun.
  const auto longest = random_.one_in(2) ? 20'000U : 1'000'000U;
  std::this_thread::sleep_for(std::chrono::microseconds(random_.between(0, longest)));
  worker.signal(SIGKILL);
  killed_ = worker.pid();
  deaths_.push_back(Clock::now());
}

bool has_left_sectors_behind(const boost::filesystem::path& cow) {
  const auto info = cowfs({"info", "--json", cow.string()});
  if (info.status != 0) throw std::runtime_error("cowfs info: " + info.err);
  return nlohmann::json::parse(info.out).at("left_behind_sectors").get<std::uint64_t>() > 0;
}

}  // namespace cowfs::tests
