// Reading ahead of whoever reads an image from one end to the other.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace cowfs::core {

/// Recognises reads that go on where another one has ended, of a few readers at once.
/// Thread safety: all functions may be called at once.
class SequentialReads {
 public:
  /// How much is read ahead at a time. A reader has between one and two of these before it.
  static constexpr std::uint64_t stride = std::uint64_t{2} << 20;

  SequentialReads();

  /// Notes a read of at least one byte. If what lies ahead of it should be read now, that is the
  /// stride from the offset that this returns on; nobody has been told of that one before.
  std::optional<std::uint64_t> note(std::uint64_t offset, std::uint64_t length);

 private:
  static constexpr std::size_t readers = 8;
  static constexpr std::uint64_t nowhere = UINT64_MAX;

  std::array<std::atomic<std::uint64_t>, readers> ends_;  ///< where their last reads ended
  std::atomic<std::size_t> next_ = 0;                     ///< in ends_, for a new reader
};

}  // namespace cowfs::core
