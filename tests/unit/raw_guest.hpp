// An export whose other end is the test: it is served over a socket, where any bytes at all can be
// its requests.
#pragma once

#include <linux/fuse.h>

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include "hostfs/export_file_system.hpp"

namespace cowfs::tests {

using MessageBytes = std::vector<std::byte>;

/// Puts structures and texts (with their NUL) one after the other.
template <typename Part>
void append_part(MessageBytes& bytes, const Part& part) {
  if constexpr (std::is_same_v<Part, MessageBytes>) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  } else if constexpr (std::is_convertible_v<Part, std::string_view>) {
    const std::string_view text = part;
    const auto* begin = reinterpret_cast<const std::byte*>(text.data());
    bytes.insert(bytes.end(), begin, begin + text.size());
    bytes.push_back(std::byte{0});
  } else {
    static_assert(std::is_trivially_copyable_v<Part>);
    const auto* begin = reinterpret_cast<const std::byte*>(&part);
    bytes.insert(bytes.end(), begin, begin + sizeof part);
  }
}
template <typename... Parts>
MessageBytes body_of(const Parts&... parts) {
  MessageBytes bytes;
  (append_part(bytes, parts), ...);
  return bytes;
}

/// What was answered.
struct RawReply {
  std::uint64_t unique = 0;
  int error = 0;  ///< a positive errno, or 0
  MessageBytes body;

  /// The structure that the reply begins with; zeros if it is shorter.
  template <typename Message>
  [[nodiscard]] Message as() const {
    Message message{};
    std::memcpy(&message, body.data(), std::min(sizeof message, body.size()));
    return message;
  }
};

/// Not jailed, and with all rights that the test has: what holds here holds by the handling of
/// requests alone.
/// Thread safety: one thread at a time.
class RawGuest {
 public:
  /// Serves `directory` with a number of threads, and has the INIT request behind it. Throws.
  RawGuest(const boost::filesystem::path& directory, const hostfs::ExportOptions& options,
           unsigned threads = 1);
  RawGuest(const RawGuest&) = delete;
  RawGuest& operator=(const RawGuest&) = delete;
  /// Takes the connection away and waits until nobody serves it any more.
  ~RawGuest();

  /// The header of a request of root's, with the right length and a `unique` of its own.
  [[nodiscard]] fuse_in_header header_for(std::uint32_t opcode, std::uint64_t node,
                                          const MessageBytes& body);
  /// Sends a message of any kind.
  void send(const MessageBytes& message) const;
  /// Sends one after which all others that one thread serves are through, and returns what was
  /// answered to those. Throws std::runtime_error if it is not answered.
  [[nodiscard]] std::vector<RawReply> replies_until_now();

  /// Sends a request and returns its reply. Throws std::runtime_error if there is none.
  RawReply ask(std::uint32_t opcode, std::uint64_t node, const MessageBytes& body);
  /// As ask(), for a request that may go unanswered.
  std::optional<RawReply> try_ask(std::uint32_t opcode, std::uint64_t node,
                                  const MessageBytes& body);

  // Well-formed requests. They return 0, or what the reply has.
  std::uint64_t look_up(std::uint64_t parent, std::string_view name);
  std::uint64_t open(std::uint64_t node, std::uint32_t flags);
  std::uint64_t open_directory(std::uint64_t node);

 private:
  [[nodiscard]] RawReply receive() const;

  core::FileDescriptor socket_;
  std::unique_ptr<fuse::Log> log_;
  std::unique_ptr<fuse::Device> device_;
  std::unique_ptr<hostfs::ExportFileSystem> file_system_;
  std::unique_ptr<fuse::Session> session_;
  std::uint64_t next_unique_ = 2;
  std::thread serving_;
};

}  // namespace cowfs::tests
