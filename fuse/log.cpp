#include "fuse/log.hpp"

#include <fmt/format.h>
#include <syslog.h>

#include <cstdio>

namespace cowfs::fuse {

void SystemLog::use_syslog() {
  ::openlog("cowfs", LOG_PID, LOG_DAEMON);
  syslog_ = true;
}

void SystemLog::info(const std::string& line) { write(LOG_INFO, line); }
void SystemLog::warning(const std::string& line) { write(LOG_WARNING, line); }
void SystemLog::error(const std::string& line) { write(LOG_ERR, line); }

void SystemLog::write(int priority, const std::string& line) {
  if (syslog_) {
    ::syslog(priority, "%s", line.c_str());
  } else {
    fmt::print(stderr, "cowfs: {}\n", line);
  }
}

}  // namespace cowfs::fuse
