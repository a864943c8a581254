// Keeping a mount alive when its worker is not.
//
// Two processes serve a mount. The worker answers the requests and may die; the supervisor holds
// what must outlive it: the connection to the kernel, the locks on COW and backing (they belong to
// the open files), and the first request of the connection. When the worker is gone it starts
// another on the same descriptors. The new worker is given the first request again, and makes the
// kernel send all that the dead one had taken and not answered: users see their I/O pause. So every
// request has to be safe to run twice.
//
// The supervisor has one thread, takes nothing apart and serves nothing: there is little in it to
// fail.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "fuse/log.hpp"

namespace cowfs::fuse {

/// The descriptors that a worker finds open when it starts.
struct WorkerDescriptors {
  static constexpr int device = 3;   ///< /dev/fuse
  static constexpr int init = 4;     ///< a file with the connection's first request
  static constexpr int control = 5;  ///< a pipe to the supervisor: bytes of WorkerSign
  static constexpr int cow = 6;
  static constexpr int backing = 7;
};

/// What a worker tells its supervisor.
enum class WorkerSign : char {
  ready = 'r',  ///< it serves
  alive = 'a',  ///< it can still serve; sent every second
};

/// Exit status of a worker that wants to be replaced. Any other means that the mount has ended.
inline constexpr int worker_replace_status = 99;

struct SupervisorOptions {
  std::string name;                           ///< of the mount, for the log
  std::vector<std::string> command;           ///< the worker's program and arguments
  std::vector<std::string> takeover_command;  ///< the same for a worker that follows another
  int cow = -1;
  int backing = -1;
  bool take_over = true;              ///< or let the mount end with its first worker
  std::chrono::seconds watchdog{30};  ///< without a sign for so long, a worker is killed; 0: never
};

class Supervisor {
 public:
  Supervisor(core::FileDescriptor device, SupervisorOptions options, Log& log);

  /// Runs the mount until its end; returns the last worker's exit status. `on_ready` is called when
  /// the first worker serves. Returns -1, having said why, when it gives up: the caller takes the
  /// mount away. Throws std::system_error.
  ///
  /// Signals: SIGTERM, SIGINT, SIGHUP are for the worker, which ends the mount; SIGUSR1 replaces
  /// it.
  int run(const std::function<void()>& on_ready);

 private:
  using Clock = std::chrono::steady_clock;
  enum class Next { wait, take_over, end };

  void receive_init();
  void start_worker(const std::vector<std::string>& command);
  void handle_signals();
  void handle_signs(const std::function<void()>& on_ready);
  void check_watchdog();
  void reap_lingering();
  [[nodiscard]] Next next_step();
  [[nodiscard]] Next after_death(const std::string& how);
  [[nodiscard]] std::string about(const std::string& what) const;

  core::FileDescriptor device_;
  core::FileDescriptor init_;
  core::FileDescriptor signals_;
  core::FileDescriptor signs_;  ///< read end of the worker's control pipe
  SupervisorOptions options_;
  Log& log_;

  pid_t worker_ = -1;
  std::vector<pid_t> lingering_;  ///< workers that were replaced before they had quite ended
  int status_ = 0;
  bool can_resend_ = false;  ///< the kernel sends requests again when asked to
  bool stopping_ = false;
  bool told_ready_ = false;    ///< the mount has been in use
  bool worker_ready_ = false;  ///< this worker has served
  Clock::time_point last_sign_;
  std::vector<Clock::time_point> deaths_;
};

}  // namespace cowfs::fuse
