// Requests on files that are open.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {
namespace {

/// How much one request copies at most; it keeps a thread so long.
constexpr std::uint64_t longest_copy = std::uint64_t{64} << 20;

off_t offset_of(std::uint64_t offset) {
  if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) fail(EINVAL);
  return static_cast<off_t>(offset);
}

std::uint32_t mark_of(const struct stat& status) {
  auto mix = [hash = std::uint64_t{0}](auto value) mutable {
    return hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15U;
  };
  mix(status.st_mtim.tv_sec);
  mix(status.st_mtim.tv_nsec);
  mix(status.st_ctim.tv_sec);
  mix(status.st_ctim.tv_nsec);
  return static_cast<std::uint32_t>(mix(status.st_size) >> 32) | 1U;
}

}  // namespace

Handler::SetIds::SetIds(Handler& handler, int fd, bool keeps) {
  auto& fs = handler.fs_;
  if (fs.keeps_metadata()) {
    if (!keeps) clear_kept(fs, fd);
    return;
  }
  // Otherwise the host's kernel clears them.
  if (!keeps || !fs.tells_who_keeps_set_ids_ || !fs.identity_.can_act_as_others()) return;
  struct stat status {};
  check(::fstat(fd, &status));
  if ((status.st_mode & (S_ISUID | S_ISGID)) != 0) keeping_.emplace(fs.identity_);
}

void Handler::SetIds::clear_kept(ExportFileSystem& fs, int fd) {
  const std::lock_guard guard(fs.metadata_mutex_);
  auto metadata = fs.metadata_of(fd, S_IFREG);
  if (!metadata || (metadata->mode & (S_ISUID | S_ISGID)) == 0) return;
  metadata->mode &= ~static_cast<mode_t>(S_ISUID);
  if ((metadata->mode & S_IXGRP) != 0) metadata->mode &= ~static_cast<mode_t>(S_ISGID);
  fs.set_metadata(fd, *metadata);
}

// --- open and close ---

/// Whether the file is as it was when it was opened last, so that the kernel may keep what it has
/// cached of it.
bool Handler::content_is_unchanged(Node& node, int fd) {
  struct stat status {};
  check(::fstat(fd, &status));
  const auto mark = mark_of(status);
  const std::lock_guard guard(fs_.content_mutex_);
  return std::exchange(node.content_mark, mark) == mark;
}

fuse_open_out Handler::register_open(Node& node, std::uint64_t id, core::FileDescriptor fd) {
  fuse_open_out out{};
  const auto backing = fs_.passthrough_.open(node, fd.get());
  try {
    if (backing != 0) {
      out.open_flags = fuse::open_passthrough;
      fuse::set_backing_id(out, backing);
    } else if (fs_.options_.cache == CachePolicy::never) {
      out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    } else if (fs_.options_.cache == CachePolicy::always || content_is_unchanged(node, fd.get())) {
      out.open_flags = FOPEN_KEEP_CACHE;
    }
    out.fh = fs_.files_.add({std::move(fd), id, false, 0, false});
  } catch (...) {
    fs_.passthrough_.close(node);
    throw;
  }
  return out;
}

void Handler::unregister_open(std::uint64_t id, std::uint64_t handle) {
  const auto node = fs_.nodes_.pin(id);
  if (fs_.files_.release(handle)) fs_.passthrough_.close(*node);
}

void Handler::open(Request& request) {
  const auto in = request.in.take<fuse_open_in>();
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  // What is not a regular file has no business here: a FIFO would wait, a device would act.
  if (node->type != S_IFREG || !S_ISREG(fs_.shown_mode(*node))) {
    fail(node->type == S_IFLNK ? ELOOP : node->type == S_IFDIR ? EISDIR : ENXIO);
  }
  const auto access = static_cast<int>(in.flags & O_ACCMODE);
  const int truncate = static_cast<int>(in.flags & O_TRUNC);
  if (fs_.options_.read_only && (access != O_RDONLY || truncate != 0)) fail(EROFS);
  fs_.files_.require_room();
  core::FileDescriptor fd;
  if (truncate != 0) {
    const bool keeps = (in.open_flags & FUSE_OPEN_KILL_SUIDGID) == 0 && !request.squashed;
    const SetIds set_ids(*this, node->fd.get(), keeps);
    fd = fs_.own_files_.reopen(node->fd.get(), access | truncate);
  } else {
    fd = fs_.own_files_.reopen(node->fd.get(), access);
  }
  const auto out = register_open(*node, request.header.nodeid, std::move(fd));
  if (!answer_with(request, out)) unregister_open(request.header.nodeid, out.fh);
}

/// Called at each close(2) of a descriptor, which waits for it and returns its error.
void Handler::flush(Request& request) {
  const auto in = request.in.take<fuse_flush_in>();
  fs_.locks_.drop({request.header.nodeid, in.lock_owner});
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  check(::close(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0)));  // some file systems report errors there
  answer_done(request);
}

void Handler::release(Request& request) {
  const auto in = request.in.take<fuse_release_in>();
  {
    const auto file = fs_.files_.pin(in.fh, request.header.nodeid);  // it must be this node's
    // Closing may not be enough: for kernel passthrough the kernel holds one of a node's open files
    // until the last of them is closed.
    if ((in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0) ::flock(file.fd(), LOCK_UN);
  }
  unregister_open(request.header.nodeid, in.fh);
  fs_.locks_.release(request.header.nodeid, in.fh);
  answer_done(request);
}

// --- data ---

void Handler::read(Request& request) {
  const auto in = request.in.take<fuse_read_in>();
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const auto wanted = std::min<std::size_t>(in.size, buffer_.size());
  const auto count = ::pread(file.fd(), buffer_.data(), wanted, offset_of(in.offset));
  if (count < 0) fail(errno);
  answer(request, {{buffer_.data(), static_cast<std::size_t>(count)}});
}

void Handler::write(Request& request) {
  const auto in = request.in.take<fuse_write_in>();
  const auto data = request.in.take_bytes(in.size);
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const SetIds set_ids(*this, file.fd(), (in.write_flags & FUSE_WRITE_KILL_SUIDGID) == 0);
  const iovec piece{const_cast<std::byte*>(data.data()), data.size()};
  // The flags are those of the guest's open file as they are now. What the host appended in the
  // meantime is not overwritten.
  int flags = 0;
  const bool from_cache = (in.write_flags & FUSE_WRITE_CACHE) != 0;
  if ((in.flags & O_APPEND) != 0 && !from_cache) flags |= RWF_APPEND;
  if ((in.flags & O_SYNC) == O_SYNC) {
    flags |= RWF_SYNC;
  } else if ((in.flags & O_DSYNC) != 0) {
    flags |= RWF_DSYNC;
  }
  const auto count = flags == 0
                         ? ::pwrite(file.fd(), data.data(), data.size(), offset_of(in.offset))
                         : ::pwritev2(file.fd(), &piece, 1, offset_of(in.offset), flags);
  if (count < 0) fail(errno);
  answer_with(request, fuse_write_out{static_cast<std::uint32_t>(count), 0});
}

void Handler::fsync(Request& request) {
  const auto in = request.in.take<fuse_fsync_in>();
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const bool data_only = (in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  check(data_only ? ::fdatasync(file.fd()) : ::fsync(file.fd()));
  answer_done(request);
}

void Handler::fallocate(Request& request) {
  const auto in = request.in.take<fuse_fallocate_in>();
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  // The message does not say who asks: set-ID bits go, as for an ordinary user.
  const SetIds set_ids(*this, file.fd(), false);
  check(::fallocate(file.fd(), static_cast<int>(in.mode), offset_of(in.offset),
                    offset_of(in.length)));
  answer_done(request);
}

void Handler::lseek(Request& request) {
  const auto in = request.in.take<fuse_lseek_in>();
  if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) fail(EINVAL);
  const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
  const auto offset = static_cast<off_t>(in.offset);  // one below 0 is the host's to refuse
  const auto found = ::lseek(file.fd(), offset, static_cast<int>(in.whence));
  if (found < 0) fail(errno);
  answer_with(request, fuse_lseek_out{static_cast<std::uint64_t>(found)});
}

void Handler::copy_file_range(Request& request) {
  const auto in = request.in.take<fuse_copy_file_range_in>();
  const auto from = fs_.files_.pin(in.fh_in, request.header.nodeid);
  const auto to = fs_.files_.pin(in.fh_out, in.nodeid_out);
  const SetIds set_ids(*this, to.fd(), false);
  off_t from_offset = offset_of(in.off_in);
  off_t to_offset = offset_of(in.off_out);
  const auto count = ::copy_file_range(from.fd(), &from_offset, to.fd(), &to_offset,
                                       std::min(in.len, longest_copy), 0);
  if (count < 0) fail(errno);
  answer_with(request, fuse_write_out{static_cast<std::uint32_t>(count), 0});
}

}  // namespace cowfs::hostfs
