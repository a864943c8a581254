// A piece of a file in memory.
#pragma once

#include <cstddef>
#include <utility>

namespace cowfs::core {

/// Owns a read-only shared mapping of a file.
///
/// The memory is for handing to the kernel (writev and the like), which answers EFAULT for a page
/// that can't be had: a truncated file, a disk error. A program that touches such a page itself
/// gets SIGBUS; so don't, but by the functions of guarded_memory.hpp.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const std::byte* data, std::size_t length) : data_(data), length_(length) {}
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), length_(std::exchange(other.length_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(length_, other.length_);
    return *this;
  }
  ~Mapping();

  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t length() const { return length_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t length_ = 0;
};

}  // namespace cowfs::core
