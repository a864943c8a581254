// Reading a merged image the way a server does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/file_descriptor.hpp"
#include "cowcore/read_view.hpp"

namespace cowfs::tests {

/// Reads through CowImage::view and writev: the kernel copies the pieces out of the mapped files,
/// as it does for the answer to a FUSE read. Guards mapped memory, as a server does. Thread safety:
/// one thread at a time.
class ViewReader {
 public:
  explicit ViewReader(std::size_t longest = std::size_t{1} << 20);

  [[nodiscard]] std::vector<std::byte> read(core::CowImage& image, std::uint64_t offset,
                                            std::size_t length);

  /// How many pieces the last read had.
  [[nodiscard]] std::size_t pieces() const { return pieces_; }

 private:
  [[nodiscard]] std::vector<std::byte> copy_view(std::size_t length) const;

  core::ReadView view_;
  core::FileDescriptor copy_;
  std::size_t pieces_ = 0;
};

[[nodiscard]] std::vector<std::byte> read_image(const core::CowImage& image, std::uint64_t offset,
                                                std::size_t length);
[[nodiscard]] std::vector<std::byte> read_all(const core::CowImage& image);

/// Where the two first differ, for a message: "byte 1234 (sector 2, 210 in it): 00, expected 5f";
/// or "the same".
[[nodiscard]] std::string difference(const std::vector<std::byte>& found,
                                     const std::vector<std::byte>& expected,
                                     std::uint64_t offset = 0);

}  // namespace cowfs::tests
