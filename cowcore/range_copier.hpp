// Copying pieces of files into one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <vector>

#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Copies ranges into a file. Small ones that follow each other are written together; of large ones
/// the blocks are shared, where the file system can. What has been copied is surely in the file
/// only after finish().
///
/// Where a source ends before the range does, the rest is zeros.
///
/// Thread safety: one thread at a time. Errors: std::system_error.
class RangeCopier {
 public:
  /// Called after each piece has been written, with its number of bytes; may throw.
  using Copied = std::function<void(std::uint64_t)>;

  /// What is done where a file is to read as zeros.
  enum class Holes {
    are_there,    ///< nothing: it does so already
    are_punched,  ///< there may be data
  };

  /// `to` must outlive the copier.
  RangeCopier(Storage& to, Holes holes, Copied copied);

  void set_holes(Holes holes) { holes_ = holes; }

  void copy(const Storage& from, std::uint64_t from_offset, std::uint64_t to_offset,
            std::uint64_t length);

  /// The same for a short range that may hold but zeros; then it becomes a hole.
  void copy_or_zero(const Storage& from, std::uint64_t from_offset, std::uint64_t to_offset,
                    std::uint64_t length);

  /// Shares the blocks of a range only, and tells of how many bytes; copies nothing.
  [[nodiscard]] std::uint64_t share(const Storage& from, std::uint64_t from_offset,
                                    std::uint64_t to_offset, std::uint64_t length);

  /// Makes the range read as zeros.
  void zero(std::uint64_t offset, std::uint64_t length);

  /// Writes what is still in memory. Does not sync.
  void finish();

 private:
  void copy_bytes(const Storage& from, std::uint64_t from_offset, std::uint64_t to_offset,
                  std::uint64_t length);
  [[nodiscard]] std::span<std::byte> room_at(std::uint64_t offset, std::uint64_t length);

  Storage& to_;
  Holes holes_;
  Copied copied_;
  std::vector<std::byte> buffer_;
  std::uint64_t begin_ = 0;  ///< where in the file the buffer belongs
  std::size_t filled_ = 0;
  std::uint64_t unsynced_begin_ = 0;  ///< what the disk has not been asked to take yet
  std::uint64_t unsynced_ = 0;
  std::set<const Storage*> unshareable_;  ///< sources that have refused
};

}  // namespace cowfs::core
