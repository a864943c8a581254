// The states of a file that a power cut can leave.
//
// The model: the kernel may have written any sector (512 bytes) of the file to the disk at any time
// since it was last surely there, each for itself and in any order; so for each sector the disk has
// one of the contents that the file had there since the last sync that had returned. A sync covers
// what was done before it began, and what was done while it ran only perhaps. The same goes for the
// size of the file. That includes every subset of the writes since then, and every write torn at
// sector boundaries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "tests/support/operation_log.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

/// A file as the disk has it.
struct DiskState {
  std::span<const std::byte> bytes;  ///< longer than the file; zeros where nothing was written
  std::uint64_t size = 0;
  std::uint64_t cut = 0;   ///< the moment of the power cut, on the clock of the log
  std::uint64_t hash = 0;  ///< of content and size
};

class DiskStates {
 public:
  /// `initial` is the file before the first operation, all of it on disk. The changes in the log
  /// must not overlap in time; syncs may overlap with anything.
  DiskStates(std::vector<std::byte> initial, std::vector<LoggedOperation> operations);

  /// The number of moments at which the power can be cut: before, between and after the operations.
  [[nodiscard]] std::size_t cuts() const { return operations_.size() + 1; }

  /// Goes on to a cut; they come in ascending order.
  void go_to(std::size_t cut);

  /// Calls `visit` for states of this cut: for all of them if they are no more than `most`, else
  /// for the extreme ones and some at random. Stops when it returns false.
  void for_each_state(std::size_t most, TestRandom& random, std::uint64_t bitmap_begin,
                      std::uint64_t bitmap_end, const std::function<bool(const DiskState&)>& visit);

  /// The operations before the cut that are not surely on disk, for messages.
  [[nodiscard]] std::string unsynced() const;

 private:
  struct Version {
    std::size_t operation;  ///< the index of the operation that made it, plus 1
    std::size_t content;    ///< where in contents_ its bytes begin
    std::uint64_t hash;
  };
  /// A sector of the file with more than one possible content.
  struct Dirty {
    std::uint64_t sector;
    const Version* first;  ///< what is surely there
    std::size_t count;
    std::size_t chosen;
  };
  struct Size {
    std::size_t operation;
    std::uint64_t size;
  };

  void apply(std::size_t index, const LoggedOperation& operation, std::vector<std::byte>& bytes);
  void note_version(std::size_t index, std::uint64_t sector, std::span<const std::byte> bytes);
  void move_floor(std::size_t floor);
  [[nodiscard]] std::vector<Dirty> find_dirty() const;
  [[nodiscard]] std::vector<std::uint64_t> possible_sizes() const;
  void choose(Dirty& dirty, std::size_t version);
  void choose_up_to(Dirty& dirty, const std::function<bool(std::size_t)>& happened);
  void choose_at_random(std::vector<Dirty>& dirty, TestRandom& random, std::uint64_t bitmap_begin,
                        std::uint64_t bitmap_end);

  std::vector<LoggedOperation> operations_;
  std::vector<std::byte> contents_;
  std::map<std::uint64_t, std::vector<Version>> versions_;  // by sector of the file
  std::vector<Size> sizes_;

  std::size_t cut_ = 0;
  std::size_t floor_ = 0;  // so many operations are surely on disk
  std::vector<std::byte> disk_;
  std::uint64_t hash_ = 0;
};

}  // namespace cowfs::tests
