// A descriptor of /dev/fuse, and the messages that pass through it.
//
// The names of messages and fields are those of <linux/fuse.h>.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::fuse {

/// What became of a reply.
enum class Delivery {
  delivered,
  unwanted,    ///< nobody waits for it any more: interrupted, or the mount is gone
  unreadable,  ///< a page of it could not be had; the kernel has ended the request with EIO
};

/// Serves a connection that it need not have opened itself.
/// Thread safety: all functions may be called at once.
class Device {
 public:
  explicit Device(core::FileDescriptor fd) : fd_(std::move(fd)) {}

  [[nodiscard]] int descriptor() const { return fd_.get(); }

  /// Another descriptor of the same connection. A request is answered through the one that it was
  /// received from; notices (invalidate, request_resend) may take any. Throws std::system_error.
  [[nodiscard]] Device clone() const;

  enum class Received {
    request,
    interrupted,
    closed,
    needs_room,  ///< for the longest request that was agreed on, at FUSE_INIT
  };
  /// Waits for a request and puts it into `buffer`; `length` becomes its length.
  /// Throws std::system_error when the device fails.
  Received receive(std::span<std::byte> buffer, std::size_t& length) const;

  /// Answers the request `unique` with pieces of memory, at most 1000. For those of mapped
  /// files see cowcore/guarded_memory.hpp.
  Delivery reply(std::uint64_t unique, std::span<const iovec> pieces) const;
  /// Answers with a structure of the protocol.
  template <typename Message>
  Delivery reply_with(std::uint64_t unique, const Message& message) const {
    const iovec piece{const_cast<Message*>(&message), sizeof message};
    return reply(unique, {&piece, 1});
  }
  /// Answers with an error, a positive errno.
  Delivery reply_error(std::uint64_t unique, int error) const;

  /// Makes the kernel drop its cached pages of a file in the range; waits for pages that are being
  /// read. So never call this in a thread that answers reads.
  void invalidate(std::uint64_t node, std::uint64_t offset, std::uint64_t length) const;

  /// Asks the kernel to forget inodes that nobody uses. Returns false if it can't be asked (before
  /// Linux 6.18). What it forgets it tells by requests.
  [[nodiscard]] bool prune(std::span<const std::uint64_t> nodes) const;

  /// Makes the kernel send again all requests that were taken from the connection and not answered
  /// (Linux 6.9 and later; an error of older ones is ignored).
  void request_resend() const;

  /// Sends a whole message; what custom I/O of a libfuse session ends in.
  [[nodiscard]] ssize_t send(std::span<const iovec> message) const;

 private:
  Delivery deliver(std::span<const iovec> message) const;

  core::FileDescriptor fd_;
};

}  // namespace cowfs::fuse
