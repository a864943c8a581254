// What was asked of an image and when, and what it may hold after a power cut.
#pragma once

#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cowcore/sector.hpp"
#include "tests/crash/tags.hpp"

namespace cowfs::tests {

/// The writes and flushes of a run, with the moments (OperationLog::tick) of their begin and end.
///
/// What a sector may hold after a cut: the content that the last flush which returned before the
/// cut has covered, or one that a write begun before the cut gave it after that. A write supersedes
/// what had ended before it began; of two that overlapped in time either may be the later.
///
/// Thread safety: the functions that note things may be called at once; finish() and check() come
/// after them.
class History {
 public:
  static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

  /// `initial` is the word of each cell of the merged image at the beginning. Comes first.
  void set_initial(std::vector<std::uint64_t> initial) { initial_ = std::move(initial); }

  /// Notes that a write (or a zeroing) of cells begins; returns the number of the event.
  std::uint32_t begin(std::uint64_t first_cell, std::uint64_t end_cell, bool zeros,
                      std::uint64_t moment);
  /// Notes that it has been acknowledged.
  void end(std::uint32_t event, std::uint64_t moment);
  /// Notes that a flush has returned.
  void flushed(std::uint64_t began, std::uint64_t ended);

  /// Works out what covers what. Nothing can be noted after it.
  void finish();

  /// The sectors that some event concerns.
  [[nodiscard]] std::vector<core::SectorNumber> sectors() const;
  [[nodiscard]] std::uint64_t cells() const { return initial_.size(); }

  /// What is wrong with the content of a sector (512 bytes) when the power was cut at a moment;
  /// nothing if it is right.
  [[nodiscard]] std::optional<std::string> check(core::SectorNumber sector,
                                                 std::span<const std::byte> content,
                                                 std::uint64_t cut) const;

 private:
  struct Event {
    std::uint64_t first_cell = 0;
    std::uint64_t end_cell = 0;
    bool zeros = false;
    std::uint64_t began = 0;
    std::uint64_t ended = never;
    std::uint64_t durable = never;  ///< when the first flush that covers it returned

    [[nodiscard]] bool covers(std::uint64_t cell) const {
      return cell >= first_cell && cell < end_cell;
    }
  };
  struct Flush {
    std::uint64_t began;
    std::uint64_t ended;
  };
  /// A content of a cell that some event, or the beginning, gave it.
  struct Content {
    std::uint32_t event;
    std::uint64_t superseded;  ///< from when on it must not be there any more
  };

  [[nodiscard]] static bool came_before(const Event& one, const Event& other) {
    return one.ended < other.began;
  }
  [[nodiscard]] std::uint64_t word_in(const Content& content, std::uint64_t cell) const;
  void candidates(std::uint64_t cell, std::uint64_t word, std::uint64_t cut,
                  std::vector<std::uint32_t>& into) const;
  [[nodiscard]] bool can_be_together(std::uint64_t cell, std::uint32_t event,
                                     std::uint64_t other_cell, std::uint32_t other_event) const;
  [[nodiscard]] bool hides(std::uint64_t cell, std::uint32_t event, std::uint32_t later) const;
  [[nodiscard]] std::string describe(std::uint64_t cell, std::uint64_t word,
                                     std::uint64_t cut) const;

  std::vector<std::uint64_t> initial_;
  std::mutex mutex_;
  std::vector<Event> events_ = {{0, never, false, 0, 0, 0}};  // 0 is the beginning
  std::vector<Flush> flushes_;
  std::unordered_map<std::uint64_t, std::vector<Content>> contents_;  // of the cells written
};

}  // namespace cowfs::tests
