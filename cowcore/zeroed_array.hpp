// A large array that costs memory only where it was written.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <system_error>
#include <type_traits>

namespace cowfs::core {

/// An array of `size` zeros straight from mmap: pages that nobody wrote take no memory, however
/// large the array. `T` must be valid when all its bytes are zero.
template <typename T>
class ZeroedArray {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  explicit ZeroedArray(std::size_t size) : size_(size) {
    if (size == 0) return;
    void* data = ::mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      throw std::system_error(errno, std::generic_category(), "cannot get address space");
    }
    data_ = static_cast<T*>(data);
    // Touched here and there: huge pages would take 2 MiB for each bit that is set.
    ::madvise(data, size * sizeof(T), MADV_NOHUGEPAGE);
  }
  ZeroedArray(const ZeroedArray&) = delete;
  ZeroedArray& operator=(const ZeroedArray&) = delete;
  ~ZeroedArray() {
    if (data_ != nullptr) ::munmap(data_, size_ * sizeof(T));
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] T* data() { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};

}  // namespace cowfs::core
