// What a merged file must hold, worked out in memory next to what is done to the file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cowcore/file_descriptor.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

struct Range {
  std::uint64_t offset = 0;
  std::size_t length = 0;
};

/// Checks by GoogleTest expectations. Thread safety: one thread at a time.
class ImageModel {
 public:
  explicit ImageModel(Bytes content) : content_(std::move(content)) {}

  [[nodiscard]] const Bytes& content() const { return content_; }

  /// Any offset up to the end; any length, most of them short, up to `longest`. The range may reach
  /// past the end.
  [[nodiscard]] Range random_range(TestRandom& random, std::size_t longest) const;

  /// Reads, and expects the content; past the end there is nothing.
  void check_read(const core::FileDescriptor& file, const Range& range) const;
  void check_all(const core::FileDescriptor& file) const;

  /// Writes random bytes, and expects all that lies inside the image to be taken, and ENOSPC if
  /// that is nothing.
  void write(const core::FileDescriptor& file, const Range& range, TestRandom& random);

  /// Makes the range read as zeros; `mode` as fallocate takes it, with FALLOC_FL_KEEP_SIZE.
  void zero(const core::FileDescriptor& file, int mode, const Range& range);

 private:
  /// How much of the range lies inside.
  [[nodiscard]] std::size_t inside(const Range& range) const;

  Bytes content_;
};

}  // namespace cowfs::tests
