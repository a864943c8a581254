// Requests about attributes and links. A link's own are meant, always: no link is followed.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <limits>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {
namespace {

timespec time_of(std::uint32_t valid, std::uint32_t given, std::uint32_t now, std::uint64_t seconds,
                 std::uint32_t nanoseconds) {
  if ((valid & now) != 0) return {0, UTIME_NOW};
  if ((valid & given) == 0) return {0, UTIME_OMIT};
  if (nanoseconds > 999999999) fail(EINVAL);
  return {static_cast<time_t>(seconds), static_cast<long>(nanoseconds)};
}

}  // namespace

void Handler::answer_attributes(Request& request, int fd) {
  fuse_attr_out out{};
  out.attr = fs_.attributes_of(fd);
  const auto timeout = fs_.entry_timeout();
  out.attr_valid = static_cast<std::uint64_t>(timeout);
  out.attr_valid_nsec =
      static_cast<std::uint32_t>((timeout - static_cast<double>(out.attr_valid)) * 1e9);
  answer_with(request, out);
}

void Handler::getattr(Request& request) {
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  answer_attributes(request, node->fd.get());
}

void Handler::setattr(Request& request) {
  const auto in = request.in.take<fuse_setattr_in>();
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  constexpr std::uint32_t owners = FATTR_UID | FATTR_GID;
  constexpr std::uint32_t times = FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW;
  // A chown(2) that names nobody still takes away set-ID bits.
  const bool names_nobody = (in.valid & (owners | times | FATTR_MODE | FATTR_SIZE)) == 0;
  if (fs_.keeps_metadata()) {
    change_metadata(*node, in, names_nobody);
  } else {
    if ((in.valid & owners) != 0 || names_nobody) change_owner(*node, in);
    if ((in.valid & FATTR_MODE) != 0) change_mode(request, *node, in.mode & 07777);
  }
  if ((in.valid & FATTR_SIZE) != 0) change_size(request, *node, in);
  if ((in.valid & times) != 0) change_times(*node, in);
  answer_attributes(request, node->fd.get());
}

void Handler::change_mode(const Request& request, const Node& node, mode_t mode) {
  // The kernel of the mount has taken away what the caller may not set.
  std::optional<Identity::KeepingSetIds> keeping;
  if ((mode & S_ISGID) != 0 && !request.squashed) keeping.emplace(fs_.identity_);
  check(::fchmodat(fs_.own_files_.directory(), OwnFileName(node.fd.get()).c_str(), mode, 0));
}

void Handler::change_owner(const Node& node, const fuse_setattr_in& in) {
  constexpr auto unchanged = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t uid = unchanged;
  std::uint32_t gid = unchanged;
  if ((in.valid & FATTR_UID) != 0) {
    const auto host = fs_.options_.users.on_host(in.uid);
    if (!host) fail(EINVAL);
    uid = *host;
  }
  if ((in.valid & FATTR_GID) != 0) {
    const auto host = fs_.options_.groups.on_host(in.gid);
    if (!host) fail(EINVAL);
    gid = *host;
  }
  if (::fchownat(node.fd.get(), "", uid, gid, AT_EMPTY_PATH) == 0) return;
  // One that names nobody may also be sent before a write by whoever may write, but not this; then
  // it is the host's kernel that takes the bits away.
  if (errno == EPERM && (in.valid & (FATTR_UID | FATTR_GID)) == 0) return;
  // In a user namespace that holds one user, others are no users at all.
  fail(errno == EINVAL && !fs_.identity_.can_act_as_others() ? EPERM : errno);
}

void Handler::change_size(const Request& request, const Node& node, const fuse_setattr_in& in) {
  if (node.type != S_IFREG || !S_ISREG(fs_.shown_mode(node))) fail(EINVAL);
  if (in.size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) fail(EFBIG);
  const auto size = static_cast<off_t>(in.size);
  const bool keeps = (in.valid & FATTR_KILL_SUIDGID) == 0 && !request.squashed;
  if ((in.valid & FATTR_FH) != 0) {
    const auto file = fs_.files_.pin(in.fh, request.header.nodeid);
    const SetIds set_ids(*this, file.fd(), keeps);
    check(::ftruncate(file.fd(), size));
    return;
  }
  const SetIds set_ids(*this, node.fd.get(), keeps);
  check(::truncate(OwnFileName(node.fd.get()).c_str(), size));  // see OwnFiles::enter
}

void Handler::change_times(const Node& node, const fuse_setattr_in& in) {
  const std::array<timespec, 2> times{
      time_of(in.valid, FATTR_ATIME, FATTR_ATIME_NOW, in.atime, in.atimensec),
      time_of(in.valid, FATTR_MTIME, FATTR_MTIME_NOW, in.mtime, in.mtimensec)};
  check(
      ::utimensat(fs_.own_files_.directory(), OwnFileName(node.fd.get()).c_str(), times.data(), 0));
}

/// With metadata=xattr: what is not the host's.
void Handler::change_metadata(const Node& node, const fuse_setattr_in& in, bool names_nobody) {
  constexpr std::uint32_t kept = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_KILL_SUIDGID;
  if ((in.valid & kept) == 0 && !names_nobody) return;
  const std::lock_guard guard(fs_.metadata_mutex_);
  const auto now = fs_.attributes_of(node.fd.get());
  Metadata metadata{now.mode, now.uid, now.gid, now.rdev};
  const bool may_run = S_ISREG(now.mode);
  const bool new_owner = (in.valid & (FATTR_UID | FATTR_GID)) != 0 || names_nobody;
  if (may_run && (new_owner || (in.valid & FATTR_KILL_SUIDGID) != 0)) {
    metadata.mode &= ~static_cast<mode_t>(S_ISUID);
    if ((metadata.mode & S_IXGRP) != 0) metadata.mode &= ~static_cast<mode_t>(S_ISGID);
  }
  if ((in.valid & FATTR_MODE) != 0) metadata.mode = (now.mode & S_IFMT) | (in.mode & 07777);
  if ((in.valid & FATTR_UID) != 0) metadata.uid = in.uid;
  if ((in.valid & FATTR_GID) != 0) metadata.gid = in.gid;
  if (metadata == Metadata{now.mode, now.uid, now.gid, now.rdev}) return;
  fs_.set_metadata(node.fd.get(), metadata);
}

// --- links ---

/// How many directories below the export's root this one is.
std::size_t Handler::depth_of(int fd) const {
  const auto path = fs_.own_files_.path_of(fd);
  // In the jail the export's root is "/"; without one, paths are the host's.
  const auto below =
      fs_.options_.sandbox == SandboxKind::none ? seen_from_root(path, fs_.host_path_) : path;
  if (!below.starts_with('/')) fail(EPERM);  // moved out of the export
  return below == "/" ? 0 : static_cast<std::size_t>(std::ranges::count(below, '/'));
}

/// How many directories below the root the one is that a link is read in. By which of several names
/// it is read is not told, and the descriptor's own name may be one that is gone: then it counts as
/// lying in the root.
std::size_t Handler::depth_of_link(int fd) const {
  struct stat status {};
  check(::fstat(fd, &status));
  if (status.st_nlink != 1 || fs_.own_files_.path_of(fd).ends_with(" (deleted)")) return 0;
  return depth_of(fd) - 1;
}

std::string Handler::host_link_text(const Node& node) const {
  std::string text(PATH_MAX, '\0');
  ssize_t length = 0;
  if (node.type == S_IFLNK) {
    length = ::readlinkat(node.fd.get(), "", text.data(), text.size());
  } else if (node.type == S_IFREG && S_ISLNK(fs_.shown_mode(node))) {
    const auto file = fs_.own_files_.reopen(node.fd.get(), O_RDONLY);
    length = ::pread(file.get(), text.data(), text.size() - 1, 0);
  } else {
    fail(EINVAL);
  }
  if (length < 0) fail(errno);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::string Handler::shown_link_text(const Node& node) const {
  auto text = host_link_text(node);
  switch (fs_.options_.symlinks) {
    case SymlinkPolicy::refuse:
      fail(EPERM);
    case SymlinkPolicy::inside:
      if (text.starts_with('/')) return seen_from_root(text, fs_.host_path_);
      if (!stays_inside(text, depth_of_link(node.fd.get()))) fail(EPERM);
      return text;
    case SymlinkPolicy::keep:
      break;
  }
  return text;
}

void Handler::readlink(Request& request) {
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  auto text = shown_link_text(*node);
  answer(request, {{text.data(), text.size()}});
}

/// Only for an export whose daemon has its user's rights and no others; see negotiate().
void Handler::access(Request& request) {
  const auto in = request.in.take<fuse_access_in>();
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  if ((in.mask & ~static_cast<unsigned>(R_OK | W_OK | X_OK)) != 0) fail(EINVAL);
  check(::faccessat(fs_.own_files_.directory(), OwnFileName(node->fd.get()).c_str(),
                    static_cast<int>(in.mask), 0));
  answer_done(request);
}

}  // namespace cowfs::hostfs
