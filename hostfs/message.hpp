// Taking a request's body apart without trusting it.
//
// libfuse believes what a message says of its own length, and that names end in a NUL. A kernel
// keeps to that; the export does not rely on it, since whatever speaks for the other end of the
// connection must not reach past the message. Everything here stays inside the body, and throws
// EINVAL where that is shorter than what is asked of it.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace cowfs::hostfs {

[[noreturn]] inline void fail(int error) {
  throw std::system_error(error, std::generic_category());
}

/// For the result of a system call that has nothing else to tell.
inline void check(int result) {
  if (result != 0) fail(errno);
}

class MessageReader {
 public:
  explicit MessageReader(std::span<const std::byte> body) : rest_(body) {}

  /// The next structure.
  template <typename Message>
  Message take() {
    static_assert(std::is_trivially_copyable_v<Message>);
    if (rest_.size() < sizeof(Message)) fail(EINVAL);
    Message message;
    std::memcpy(&message, rest_.data(), sizeof message);
    rest_ = rest_.subspan(sizeof message);
    return message;
  }

  /// The next text, up to its NUL, which `data()` of the result can be relied on to have.
  std::string_view take_text() {
    const auto end = std::find(rest_.begin(), rest_.end(), std::byte{0});
    if (end == rest_.end()) fail(EINVAL);
    const auto length = static_cast<std::size_t>(end - rest_.begin());
    const std::string_view text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length + 1);
    return text;
  }

  /// The next bytes.
  std::span<const std::byte> take_bytes(std::size_t count) {
    if (rest_.size() < count) fail(EINVAL);
    const auto bytes = rest_.first(count);
    rest_ = rest_.subspan(count);
    return bytes;
  }

  [[nodiscard]] std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace cowfs::hostfs
