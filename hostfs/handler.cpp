#include "hostfs/handler.hpp"

#include <fcntl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fuse/control.hpp"
#include "fuse/errno_of.hpp"

namespace cowfs::hostfs {

/// What is done for an opcode.
struct Handler::Operation {
  std::uint32_t opcode;
  void (Handler::*perform)(Request&);
  /// Refused with EROFS by a read-only export.
  bool modifies = false;
  /// It has no reply, or concerns something that is open already: whoever asks was judged before.
  bool judged = false;
};

const Handler::Operation* Handler::operation_for(std::uint32_t opcode) {
  static constexpr std::array operations{
      Operation{FUSE_LOOKUP, &Handler::lookup},
      Operation{FUSE_FORGET, &Handler::forget, false, true},
      Operation{FUSE_GETATTR, &Handler::getattr},
      Operation{FUSE_SETATTR, &Handler::setattr, true},
      Operation{FUSE_READLINK, &Handler::readlink},
      Operation{FUSE_SYMLINK, &Handler::symlink, true},
      Operation{FUSE_MKNOD, &Handler::mknod, true},
      Operation{FUSE_MKDIR, &Handler::mkdir, true},
      Operation{FUSE_UNLINK, &Handler::unlink, true},
      Operation{FUSE_RMDIR, &Handler::rmdir, true},
      Operation{FUSE_RENAME, &Handler::rename, true},
      Operation{FUSE_LINK, &Handler::link, true},
      Operation{FUSE_OPEN, &Handler::open},
      Operation{FUSE_READ, &Handler::read, false, true},
      Operation{FUSE_WRITE, &Handler::write, true, true},
      Operation{FUSE_STATFS, &Handler::statfs, false, true},
      Operation{FUSE_RELEASE, &Handler::release, false, true},
      Operation{FUSE_FSYNC, &Handler::fsync, false, true},
      Operation{FUSE_SETXATTR, &Handler::setxattr, true},
      Operation{FUSE_GETXATTR, &Handler::getxattr},
      Operation{FUSE_LISTXATTR, &Handler::listxattr},
      Operation{FUSE_REMOVEXATTR, &Handler::removexattr, true},
      Operation{FUSE_FLUSH, &Handler::flush, false, true},
      Operation{FUSE_OPENDIR, &Handler::opendir},
      Operation{FUSE_READDIR, &Handler::readdir, false, true},
      Operation{FUSE_RELEASEDIR, &Handler::releasedir, false, true},
      Operation{FUSE_FSYNCDIR, &Handler::fsyncdir, false, true},
      Operation{FUSE_GETLK, &Handler::getlk, false, true},
      Operation{FUSE_SETLK, &Handler::setlk, false, true},
      Operation{FUSE_SETLKW, &Handler::setlkw, false, true},
      Operation{FUSE_ACCESS, &Handler::access},
      Operation{FUSE_CREATE, &Handler::create, true},
      Operation{FUSE_INTERRUPT, &Handler::interrupt, false, true},
      Operation{FUSE_DESTROY, &Handler::destroy, false, true},
      Operation{FUSE_IOCTL, &Handler::ioctl, false, true},
      Operation{FUSE_BATCH_FORGET, &Handler::batch_forget, false, true},
      Operation{FUSE_FALLOCATE, &Handler::fallocate, true, true},
      Operation{FUSE_READDIRPLUS, &Handler::readdirplus},
      Operation{FUSE_RENAME2, &Handler::rename2, true},
      Operation{FUSE_LSEEK, &Handler::lseek, false, true},
      Operation{FUSE_COPY_FILE_RANGE, &Handler::copy_file_range, true, true},
      Operation{FUSE_TMPFILE, &Handler::tmpfile, true},
  };
  static const auto table = [] {
    std::array<const Operation*, 64> by_opcode{};
    for (const auto& operation : operations) by_opcode.at(operation.opcode) = &operation;
    return by_opcode;
  }();
  return opcode < table.size() ? table[opcode] : nullptr;
}

Handler::Handler(ExportFileSystem& fs, const fuse::Device& device)
    : fs_(fs), device_(device), buffer_(fuse::longest_transfer) {
  fs.own_files_.enter();
}

bool Handler::handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept {
  const auto* operation = operation_for(header.opcode);
  // Nothing is left to libfuse, which would believe what a message says of itself.
  if (operation == nullptr) {
    device_.reply_error(header.unique, ENOSYS);
    return true;
  }
  Request request{header, MessageReader(body), fs_.identity_.squashes(header.uid)};
  if (const int error = fuse::errno_of([&] { perform(*operation, request); })) {
    // A limit of the daemon is, for the other end, one of the file system.
    device_.reply_error(header.unique, error == EMFILE ? ENFILE : error);
  }
  return true;
}

void Handler::perform(const Operation& operation, Request& request) {
  if (operation.modifies && fs_.options_.read_only) fail(EROFS);
  if (request.squashed && !operation.judged) {
    const Identity::Anonymous anonymous(fs_.identity_);
    (this->*operation.perform)(request);
  } else {
    (this->*operation.perform)(request);
  }
}

bool Handler::answer(const Request& request, std::initializer_list<iovec> pieces) {
  std::array<iovec, 5> message{};
  fuse_out_header header{sizeof header, 0, request.header.unique};
  message[0] = {&header, sizeof header};
  std::size_t count = 1;
  for (const auto& piece : pieces) {
    header.len += static_cast<std::uint32_t>(piece.iov_len);
    message.at(count++) = piece;
  }
  return device_.send(std::span(message).first(count)) >= 0;
}

void Handler::forget(Request& request) {
  const auto in = request.in.take<fuse_forget_in>();
  if (fs_.nodes_.forget(request.header.nodeid, in.nlookup)) {
    fs_.locks_.drop_node(request.header.nodeid);
  }
}

void Handler::batch_forget(Request& request) {
  const auto in = request.in.take<fuse_batch_forget_in>();
  for (std::uint32_t i = 0; i < in.count; ++i) {
    const auto one = request.in.take<fuse_forget_one>();
    if (fs_.nodes_.forget(one.nodeid, one.nlookup)) fs_.locks_.drop_node(one.nodeid);
  }
}

/// Only waiting for a lock takes so long that giving up half-way would help. Nothing else is
/// answered for it: then the kernel waits for the request itself.
void Handler::interrupt(Request& request) {
  fs_.locks_.interrupt(request.in.take<fuse_interrupt_in>().unique);
}

void Handler::destroy(Request& request) { answer_done(request); }

/// The command asks for the daemon's state; see fuse/control.hpp.
void Handler::ioctl(Request& request) {
  const auto in = request.in.take<fuse_ioctl_in>();
  if (request.header.nodeid != FUSE_ROOT_ID ||
      in.cmd != static_cast<std::uint32_t>(fuse::get_daemon_status) ||
      in.out_size < sizeof(fuse::DaemonStatus)) {
    fail(ENOTTY);
  }
  fuse_ioctl_out out{};
  fuse::DaemonStatus status{fuse::daemon_status_version, fs_.daemon_, fs_.daemon_, 0};
  answer(request, {{&out, sizeof out}, {&status, sizeof status}});
}

void Handler::statfs(Request& request) {
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  struct ::statfs space {};
  if (::fstatfs(node->fd.get(), &space) != 0) fail(errno);
  fuse_statfs_out out{};
  out.st.blocks = space.f_blocks;
  out.st.bfree = space.f_bfree;
  out.st.bavail = space.f_bavail;
  out.st.files = space.f_files;
  out.st.ffree = space.f_ffree;
  out.st.bsize = static_cast<std::uint32_t>(space.f_bsize);
  out.st.namelen = static_cast<std::uint32_t>(longest_name);
  out.st.frsize = static_cast<std::uint32_t>(space.f_frsize);
  answer_with(request, out);
}

}  // namespace cowfs::hostfs
