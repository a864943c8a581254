// The two processes that serve a mount, and killing them.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <chrono>
#include <deque>
#include <string>

#include "cowcore/file_descriptor.hpp"
#include "tests/integration/support/process.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

struct Daemon {
  pid_t supervisor = 0;  ///< the worker itself, if the supervisor is gone
  pid_t worker = 0;
  bool replaceable = false;
};

/// Asks a merged file that is open. Waits for a worker that answers; throws std::system_error when
/// none will.
[[nodiscard]] Daemon daemon_behind(const core::FileDescriptor& merged);

/// What runs cowfs besides the supervisor: the worker, also one that does not serve yet. For a
/// sandbox with one mount. 0 if there is none.
[[nodiscard]] pid_t worker_beside(pid_t supervisor);

/// Kills the workers of the one mount in this sandbox, but not so often that its supervisor takes
/// it for hopeless (five deaths within ten seconds).
class WorkerKiller {
 public:
  WorkerKiller(pid_t supervisor, TestRandom& random) : supervisor_(supervisor), random_(random) {}

  /// Waits for a worker, and a random while, and kills it. Throws std::runtime_error if none comes.
  void kill_one();

 private:
  [[nodiscard]] WatchedProcess next_worker() const;
  void wait_until_it_is_harmless();

  pid_t supervisor_;
  TestRandom& random_;
  pid_t killed_ = 0;  ///< the last one
  std::deque<std::chrono::steady_clock::time_point> deaths_;
};

/// What `cowfs info` tells of the sectors that a killed mount has left.
[[nodiscard]] bool has_left_sectors_behind(const boost::filesystem::path& cow);

}  // namespace cowfs::tests
