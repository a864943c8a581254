// Requests for locks; see file_locks.hpp.

#include <sys/file.h>

#include <cerrno>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {
namespace {

/// A file of its own for an owner of locks, with as much access as can be had: which locks will be
/// asked for is not known, and all of an owner's must be in one open file.
core::FileDescriptor open_for_locks(const OwnFiles& own_files, int fd) {
  try {
    return own_files.reopen(fd, O_RDWR);
  } catch (const std::system_error&) {
    return own_files.reopen(fd, O_RDONLY);
  }
}

}  // namespace

void Handler::getlk(Request& request) {
  const auto in = request.in.take<fuse_lk_in>();
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const auto found = fs_.locks_.test({request.header.nodeid, in.owner}, host_lock(in.lk),
                                     [&] { return open_for_locks(fs_.own_files_, file.fd()); });
  fuse_lk_out out{};
  out.lk.type = static_cast<std::uint32_t>(found.l_type);
  if (found.l_type != F_UNLCK) {
    out.lk.start = static_cast<std::uint64_t>(found.l_start);
    out.lk.end = found.l_len == 0 ? static_cast<std::uint64_t>(INT64_MAX)
                                  : static_cast<std::uint64_t>(found.l_start + found.l_len - 1);
    out.lk.pid = static_cast<std::uint32_t>(found.l_pid);
  }
  answer_with(request, out);
}

void Handler::setlk(Request& request) { set_lock(request, false); }
void Handler::setlkw(Request& request) { set_lock(request, true); }

void Handler::set_lock(Request& request, bool wait) {
  const auto in = request.in.take<fuse_lk_in>();
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const auto unique = request.header.unique;
  FileLocks::Outcome outcome{};
  if ((in.lk_flags & FUSE_LK_FLOCK) != 0) {
    const int operation = in.lk.type == F_RDLCK   ? LOCK_SH
                          : in.lk.type == F_WRLCK ? LOCK_EX
                                                  : LOCK_UN;
    outcome = fs_.locks_.set_whole(file.fd(), operation, wait, unique);
  } else {
    outcome = fs_.locks_.set({request.header.nodeid, in.owner}, in.lk.pid, host_lock(in.lk), wait,
                             unique, [&] { return open_for_locks(fs_.own_files_, file.fd()); });
  }
  switch (outcome) {
    case FileLocks::Outcome::done:
      answer_done(request);
      break;
    case FileLocks::Outcome::would_wait:
      device_.reply_error(unique, EAGAIN);
      break;
    case FileLocks::Outcome::waits:
      break;
  }
}

}  // namespace cowfs::hostfs
