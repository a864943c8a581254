// The process outside of the jail.
//
// It holds the connection, starts the worker, writes the log, and takes the mount away when the
// worker is gone. It registers files for kernel passthrough, which takes CAP_SYS_ADMIN: what a
// worker hands over is looked at (a regular file, and no more of them at a time than the worker can
// have open), and then one call of ioctl(2) is made on the export's own connection. The kernel
// reads and writes such a file with the rights that the broker has at that moment, so it keeps no
// capability but that one and those that unmounting takes: it can't keep set-ID bits alive, nor
// read what a worker could not have opened.
//
// What a worker that a guest has taken over can do to it: have files registered that it has open
// anyway, and write lines to the log, of bounded length and number.
#pragma once

#include <boost/filesystem/path.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "fuse/log.hpp"
#include "hostfs/options.hpp"

namespace cowfs::hostfs {

struct BrokerOptions {
  std::vector<std::string> command;  ///< the worker's program and arguments
  int directory = -1;                ///< O_PATH, what is exported
  bool passthrough = false;
  std::optional<Account> as;  ///< as whom the worker works
};

class Broker {
 public:
  /// `device` is the mount's connection. Throws std::system_error.
  Broker(core::FileDescriptor device, BrokerOptions options, fuse::Log& log);

  /// Starts the worker and serves it until its end. `on_ready` gets the text of what is in force
  /// when it serves; `on_stop` is called for SIGTERM, SIGINT and SIGHUP, and takes the mount away.
  /// Returns the worker's exit status, or -1 if it was killed. A worker that refuses to start is a
  /// std::runtime_error with its reason.
  int run(const std::function<void(const std::string&)>& on_ready,
          const std::function<void(int)>& on_stop);

 private:
  void start_worker();
  void handle_signals(const std::function<void(int)>& on_stop);
  [[nodiscard]] std::optional<int> reap(const std::function<void(const std::string&)>& on_ready);
  void handle_requests();
  void handle_reports(const std::function<void(const std::string&)>& on_ready);
  void log_line(char kind, std::string line);
  [[nodiscard]] std::int32_t open_backing(const core::FileDescriptor& file);
  void drop_capabilities();

  core::FileDescriptor device_;
  BrokerOptions options_;
  fuse::Log& log_;
  core::FileDescriptor signals_;
  core::FileDescriptor requests_;
  core::FileDescriptor reports_;
  pid_t worker_group_ = -1;
  int worker_status_ = 0;  ///< as wait(2) tells it, of its first process that did not end well
  bool told_ready_ = false;
  std::string refusal_;
  std::set<std::int32_t> backings_;  ///< ids that are registered
  std::chrono::steady_clock::time_point log_second_;
  unsigned lines_in_second_ = 0;
};

}  // namespace cowfs::hostfs
