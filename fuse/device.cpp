#include "fuse/device.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "fuse/newer_protocol.hpp"

namespace cowfs::fuse {
namespace {

template <typename Message>
iovec piece_of(Message& message) {
  return {&message, sizeof message};
}

}  // namespace

Device Device::clone() const {
  core::FileDescriptor another(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  auto connection = static_cast<std::uint32_t>(fd_.get());
  if (!another || ::ioctl(another.get(), FUSE_DEV_IOC_CLONE, &connection) != 0) {
    throw std::system_error(errno, std::generic_category(), "/dev/fuse: cannot clone");
  }
  return Device(std::move(another));
}

Device::Received Device::receive(std::span<std::byte> buffer, std::size_t& length) const {
  const auto count = ::read(fd_.get(), buffer.data(), buffer.size());
  if (count > 0) {
    length = static_cast<std::size_t>(count);
    return Received::request;
  }
  switch (count == 0 ? ENODEV : errno) {
    case ENODEV:        // unmounted
    case ECONNABORTED:  // by force
      return Received::closed;
    case EINTR:
    case EAGAIN:
    case ENOENT:  // the request was withdrawn while we took it
      return Received::interrupted;
    case EINVAL:
      return Received::needs_room;
    default:
      throw std::system_error(errno, std::generic_category(), "/dev/fuse: cannot read");
  }
}

ssize_t Device::send(std::span<const iovec> message) const {
  return ::writev(fd_.get(), message.data(), static_cast<int>(message.size()));
}

Delivery Device::deliver(std::span<const iovec> message) const {
  if (send(message) >= 0) return Delivery::delivered;
  return errno == EFAULT ? Delivery::unreadable : Delivery::unwanted;
}

Delivery Device::reply(std::uint64_t unique, std::span<const iovec> pieces) const {
  fuse_out_header header{0, 0, unique};
  std::array<iovec, 1001> message;
  message[0] = piece_of(header);
  std::ranges::copy(pieces, message.begin() + 1);
  std::size_t length = sizeof header;
  for (const auto& piece : pieces) length += piece.iov_len;
  header.len = static_cast<std::uint32_t>(length);
  return deliver(std::span(message).first(pieces.size() + 1));
}

Delivery Device::reply_error(std::uint64_t unique, int error) const {
  fuse_out_header header{sizeof header, -error, unique};
  const auto piece = piece_of(header);
  return deliver({&piece, 1});
}

void Device::invalidate(std::uint64_t node, std::uint64_t offset, std::uint64_t length) const {
  fuse_notify_inval_inode_out range{};
  range.ino = node;
  range.off = static_cast<std::int64_t>(offset);
  range.len = static_cast<std::int64_t>(length);
  fuse_out_header header{sizeof header + sizeof range, FUSE_NOTIFY_INVAL_INODE, 0};
  const std::array<iovec, 2> message{piece_of(header), piece_of(range)};
  // It fails for a file that the kernel has forgotten or a mount that is gone: nothing to drop.
  (void)send(message);
}

bool Device::prune(std::span<const std::uint64_t> nodes) const {
  if (nodes.empty()) return true;
  NotifyPrune prune{static_cast<std::uint32_t>(nodes.size()), 0, 0};
  const auto length = sizeof(fuse_out_header) + sizeof prune + nodes.size_bytes();
  fuse_out_header header{static_cast<std::uint32_t>(length), notify_prune, 0};
  const iovec ids{const_cast<std::uint64_t*>(nodes.data()), nodes.size_bytes()};
  const std::array<iovec, 3> message{piece_of(header), piece_of(prune), ids};
  return send(message) >= 0 || errno != EINVAL;
}

void Device::request_resend() const {
  fuse_out_header header{sizeof header, notify_resend, 0};
  const auto piece = piece_of(header);
  (void)send({&piece, 1});
}

}  // namespace cowfs::fuse
