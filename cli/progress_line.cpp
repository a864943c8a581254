#include "cli/progress_line.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <ostream>
#include <stdexcept>

#include "cowcore/human_units.hpp"

namespace cowfs::cli {
namespace {

using std::chrono::duration;
using namespace std::chrono_literals;

constexpr auto first_line_after = 1s;
constexpr auto between_lines = 200ms;
constexpr std::array cancelling{SIGINT, SIGTERM, SIGHUP};

/// A handler can reach nothing but what is static.
std::atomic<bool> cancel_asked = false;
std::array<struct sigaction, cancelling.size()> previous_actions;

void on_cancel(int /*signal*/) { cancel_asked = true; }

std::string time_left(const core::ProgressReport& report, double bytes_per_second) {
  if (bytes_per_second < 1) return "";
  const auto left = static_cast<double>(report.total - report.done) / bytes_per_second;
  const auto seconds = std::llround(left);
  if (seconds >= 3600) {
    return fmt::format(", {}:{:02}:{:02} left", seconds / 3600, seconds / 60 % 60, seconds % 60);
  }
  return fmt::format(", {}:{:02} left", seconds / 60, seconds % 60);
}

}  // namespace

CancelSignals::CancelSignals() {
  cancel_asked = false;
  struct sigaction action {};
  action.sa_handler = on_cancel;
  ::sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < cancelling.size(); ++i) {
    ::sigaction(cancelling[i], nullptr, &previous_actions[i]);
    // What runs under nohup is not ended by a lost terminal.
    if (previous_actions[i].sa_handler != SIG_IGN) ::sigaction(cancelling[i], &action, nullptr);
  }
}

CancelSignals::~CancelSignals() {
  for (std::size_t i = 0; i < cancelling.size(); ++i) {
    ::sigaction(cancelling[i], &previous_actions[i], nullptr);
  }
}

bool CancelSignals::came() { return cancel_asked; }

bool progress_is_shown(bool quiet) { return !quiet && ::isatty(STDERR_FILENO) == 1; }

ProgressLine::ProgressLine(std::ostream& err, ProgressStyle style,
                           std::function<Clock::time_point()> now)
    : err_(err), style_(std::move(style)), now_(std::move(now)), began_(now_()), drawn_(began_) {}

ProgressLine::~ProgressLine() {
  if (on_screen_) err_ << "\r\033[K" << std::flush;
}

core::Progress ProgressLine::callback() {
  return [this](const core::ProgressReport& report) { update(report); };
}

void ProgressLine::update(const core::ProgressReport& report) {
  if (CancelSignals::came()) throw core::Cancelled(style_.file, style_.cancelled);
  if (!style_.shown) return;
  const auto now = now_();
  if (now - began_ < first_line_after || (on_screen_ && now - drawn_ < between_lines)) return;
  draw(report, now);
}

void ProgressLine::draw(const core::ProgressReport& report, Clock::time_point now) {
  const auto done = static_cast<double>(report.done);
  const auto rate = done / duration<double>(now - began_).count();
  const auto percent =
      report.total == 0 ? 100 : static_cast<int>(100 * done / static_cast<double>(report.total));
  err_ << fmt::format("\r\033[K{} {}: {}% of {}, {}/s{}", style_.doing, style_.file, percent,
                      core::short_size(report.total),
                      core::short_size(static_cast<std::uint64_t>(rate)), time_left(report, rate))
       << std::flush;
  on_screen_ = true;
  drawn_ = now;
}

}  // namespace cowfs::cli
