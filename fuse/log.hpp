// Where a running mount says what happens to it.
#pragma once

#include <atomic>
#include <string>

namespace cowfs::fuse {

/// Thread safety: all functions may be called at once.
class Log {
 public:
  virtual ~Log() = default;
  virtual void info(const std::string& line) = 0;
  virtual void warning(const std::string& line) = 0;
  virtual void error(const std::string& line) = 0;
};

/// Writes to stderr, each line with "cowfs: " before it; from use_syslog() on to the system's log.
class SystemLog final : public Log {
 public:
  void use_syslog();

  void info(const std::string& line) override;
  void warning(const std::string& line) override;
  void error(const std::string& line) override;

 private:
  void write(int priority, const std::string& line);
  std::atomic<bool> syslog_ = false;
};

}  // namespace cowfs::fuse
