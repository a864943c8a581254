#include "hostfs/passthrough.hpp"

#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>

#include "hostfs/broker_protocol.hpp"

namespace cowfs::hostfs {

std::int32_t Passthrough::open(Node& node, int fd) {
  if (!enabled_) return 0;
  const std::lock_guard guard(mutex_);
  if (node.opens++ == 0) node.backing_id = register_file(fd);
  return node.backing_id;
}

void Passthrough::close(Node& node) {
  if (!enabled_) return;
  const std::lock_guard guard(mutex_);
  if (node.opens == 0 || --node.opens > 0 || node.backing_id == 0) return;
  const BrokerRequest request{BrokerRequest::close_backing, node.backing_id};
  node.backing_id = 0;
  (void)::send(broker_.get(), &request, sizeof request, MSG_NOSIGNAL);
}

std::int32_t Passthrough::register_file(int fd) {
  // The kernel would take set-ID bits away at each write, also from those who may keep them.
  struct stat status {};
  if (::fstat(fd, &status) != 0 || (status.st_mode & (S_ISUID | S_ISGID)) != 0) return 0;
  BrokerRequest request{BrokerRequest::open_backing, 0};
  iovec piece{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  auto* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  BrokerReply reply{};
  if (::sendmsg(broker_.get(), &message, MSG_NOSIGNAL) != sizeof request ||
      ::recv(broker_.get(), &reply, sizeof reply, 0) != sizeof reply) {
    return 0;
  }
  return reply.id > 0 ? reply.id : 0;
}

}  // namespace cowfs::hostfs
