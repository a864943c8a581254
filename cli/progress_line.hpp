// The line that shows how far a long operation is, and the signals that stop it.
#pragma once

#include <chrono>
#include <functional>
#include <iosfwd>
#include <string>

#include "cowcore/progress.hpp"

namespace cowfs::cli {

/// While it lives, SIGINT, SIGTERM and SIGHUP end nothing by themselves: they are remembered, and
/// the next report of an operation throws Cancelled. One object at a time in a process.
class CancelSignals {
 public:
  CancelSignals();
  CancelSignals(const CancelSignals&) = delete;
  CancelSignals& operator=(const CancelSignals&) = delete;
  ~CancelSignals();

  /// Whether one of them has come.
  [[nodiscard]] static bool came();
};

struct ProgressStyle {
  std::string doing;      ///< "merging"
  std::string file;       ///< what is worked on: of the line, and of Cancelled
  std::string cancelled;  ///< what Cancelled says after "interrupted"; may be empty
  bool shown = false;     ///< progress_is_shown(quiet), or what a test wants
};

/// Whether standard error is a terminal, and the user has not asked for silence.
[[nodiscard]] bool progress_is_shown(bool quiet);

/// Shows "merging FILE: 42% of 3.0 GiB, 812 MiB/s, 0:03 left", from about a second after its
/// construction on, and takes the line away when it goes. For one thread.
class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressLine(std::ostream& err, ProgressStyle style,
               std::function<Clock::time_point()> now = Clock::now);
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine();

  /// To give to an operation; it refers to this object. Throws Cancelled after a signal.
  [[nodiscard]] core::Progress callback();

 private:
  void update(const core::ProgressReport& report);
  void draw(const core::ProgressReport& report, Clock::time_point now);

  std::ostream& err_;
  ProgressStyle style_;
  std::function<Clock::time_point()> now_;
  Clock::time_point began_;
  Clock::time_point drawn_;
  bool on_screen_ = false;
  CancelSignals signals_;
};

}  // namespace cowfs::cli
