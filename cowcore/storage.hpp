// The one seam between cowcore and the operating system: a file of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "cowcore/mapping.hpp"

namespace cowfs::core {

enum class LockKind { shared, exclusive };

/// Tells whether two names mean one file.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

struct FileStatus {
  FileIdentity identity;
  std::uint64_t size = 0;       ///< bytes; of a block device, its capacity
  std::uint64_t allocated = 0;  ///< bytes that it takes on disk
  timespec accessed{};
  timespec modified{};
  std::uint32_t mode = 0;  ///< as st_mode
  std::uint32_t owner = 0;
  std::uint32_t group = 0;
};

struct SpaceStatus {
  std::uint64_t total = 0;  ///< bytes of the file system that holds the file
  std::uint64_t free = 0;
  std::uint64_t available = 0;  ///< free to an ordinary user
};

/// A file. Offsets and lengths are bytes.
///
/// Thread safety: every function may be called from several threads at once.
/// Errors: std::system_error with the errno of the operating system, unless said otherwise.
class Storage {
 public:
  Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  virtual ~Storage() = default;

  /// What to call the file in a message.
  [[nodiscard]] virtual const std::string& name() const = 0;

  [[nodiscard]] virtual FileStatus status() const = 0;
  [[nodiscard]] virtual SpaceStatus space() const = 0;

  /// Fills `into` from `offset` on; returns how many bytes there were. Less than asked only at the
  /// end of the file.
  virtual std::size_t read(std::uint64_t offset, std::span<std::byte> into) const = 0;

  /// Writes all of `from`, growing the file where needed. After an error any part may be written.
  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;

  /// Returns when all that was written before the call survives a power loss (fdatasync).
  virtual void sync() = 0;

  /// Has the system begin to put a range on disk, so that a later sync has less to wait for.
  virtual void begin_sync(std::uint64_t /*offset*/, std::uint64_t /*length*/) {}

  /// Makes the range read as zeros and, where the file system can, cost no space. The file keeps
  /// its size.
  virtual void punch(std::uint64_t offset, std::uint64_t length) = 0;

  /// Sees to it that writes into the range will not meet a full disk. The file keeps its size.
  virtual void reserve(std::uint64_t offset, std::uint64_t length) = 0;

  virtual void resize(std::uint64_t size) = 0;

  /// The first offset at or after `offset` that is not in a hole; nothing if there is none.
  [[nodiscard]] virtual std::optional<std::uint64_t> next_data(std::uint64_t offset) const = 0;

  /// The first offset at or after `offset` that is in a hole. The end of the file counts as one.
  [[nodiscard]] virtual std::uint64_t next_hole(std::uint64_t offset) const = 0;

  /// Takes over a range of another file without its bytes passing through this process: shares its
  /// blocks, or lets a file server copy. Returns how many bytes, from the beginning of the range,
  /// have been taken over; 0 where the files can't do that. Needs offsets and a length that are
  /// multiples of the file system's blocks.
  virtual std::uint64_t clone_from(const Storage& /*from*/, std::uint64_t /*from_offset*/,
                                   std::uint64_t /*to_offset*/, std::uint64_t /*length*/) {
    return 0;
  }

  /// Maps the range for reading; it may reach past the end of the file. What is touched is read
  /// from the disk page by page: for more, see prefetch(). Nothing if this storage can't be mapped.
  /// See Mapping for what may be done with it.
  [[nodiscard]] virtual std::optional<Mapping> map(std::uint64_t offset,
                                                   std::size_t length) const = 0;

  /// Begins to read the range into memory, all of it at once, if it is not there. Only a hint.
  virtual void prefetch(std::uint64_t /*offset*/, std::uint64_t /*length*/) const {}

  /// Locks the whole file until this object is gone. Throws Busy, naming the holder where the
  /// system tells, if somebody else holds a lock that conflicts.
  virtual void lock(LockKind kind) = 0;
};

}  // namespace cowfs::core
