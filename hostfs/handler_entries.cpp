// Requests that find, make, remove and rename entries of directories.
//
// Each takes a directory's descriptor and one checked name. Making is exclusive (O_EXCL, or a call
// that is so by itself), so nothing that is there already is touched, and no link is followed.

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <string>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {
namespace {

constexpr mode_t kept_file_mode = 0600;
constexpr mode_t kept_directory_mode = 0700;
constexpr std::size_t longest_link = 4095;

void set_timeout(double seconds, std::uint64_t& whole, std::uint32_t& nanoseconds) {
  whole = static_cast<std::uint64_t>(seconds);
  nanoseconds = static_cast<std::uint32_t>((seconds - std::floor(seconds)) * 1e9);
}

}  // namespace

/// While it is there, what is made belongs to whoever asked, and has the mode that they asked for.
class Handler::Making {
 public:
  Making(Handler& handler, Request& request, mode_t umask) {
    ::umask(umask & 0777);
    if (handler.fs_.identity_.can_act_as_others() && !request.squashed) {
      owning_.emplace(handler.fs_.identity_, handler.caller_of(request));
    }
  }
  Making(const Making&) = delete;
  Making& operator=(const Making&) = delete;
  ~Making() { ::umask(0); }

 private:
  std::optional<Identity::Owning> owning_;
};

/// To be called when the names were taken off the request: the extensions follow them.
Caller Handler::caller_of(Request& request) const {
  const auto& options = fs_.options_;
  const auto uid = options.users.on_host(request.header.uid);
  const auto gid = options.groups.on_host(request.header.gid);
  if (!uid || !gid) fail(EOVERFLOW);
  Caller caller{*uid, *gid, std::nullopt};
  if (request.header.total_extlen == 0) return caller;
  const auto extension = request.in.take<fuse_ext_header>();
  if (extension.type != fuse::extension_groups) return caller;
  if (request.in.take<std::uint32_t>() == 0) return caller;
  caller.supplementary = options.groups.on_host(request.in.take<std::uint32_t>());
  return caller;
}

fuse_entry_out Handler::timed_entry(std::uint64_t node, const fuse_attr& attributes) const {
  fuse_entry_out out{};
  out.nodeid = node;
  out.generation = node >> 32;
  out.attr = attributes;
  set_timeout(fs_.entry_timeout(), out.entry_valid, out.entry_valid_nsec);
  set_timeout(fs_.entry_timeout(), out.attr_valid, out.attr_valid_nsec);
  return out;
}

fuse_entry_out Handler::entry_of(Found found) {
  const auto type = found.status.st_mode & S_IFMT;
  const FileKey key{found.status.st_dev, found.status.st_ino};
  const auto attributes = fs_.attributes_of(found.status, fs_.metadata_of(found.fd.get(), type));
  const auto id = fs_.nodes_.add(std::move(found.fd), key, type);
  fs_.pruner_.note_size(fs_.nodes_.size());
  return timed_entry(id, attributes);
}

std::optional<fuse_entry_out> Handler::look_up(int directory, const char* name) {
  // A file that is a node already need not be opened again: it is one that a lookup has led to, and
  // it is still the same, since the node keeps it.
  struct stat status {};
  if (::fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return std::nullopt;
    fail(errno);
  }
  if (const auto id = fs_.nodes_.add_known({status.st_dev, status.st_ino})) {
    if (!fs_.keeps_metadata()) return timed_entry(*id, fs_.attributes_of(status, std::nullopt));
    const auto node = fs_.nodes_.pin(*id);
    return timed_entry(*id, fs_.attributes_of(status, fs_.metadata_of(node->fd.get(), node->type)));
  }
  auto found = fs_.find_entry(directory, name);
  if (!found) return std::nullopt;
  return entry_of(std::move(*found));
}

void Handler::answer_new_entry(Request& request, const fuse_entry_out& entry) {
  if (!answer_with(request, entry)) fs_.nodes_.forget(entry.nodeid, 1);
}

void Handler::answer_entry(Request& request, int directory, const char* name) {
  const auto entry = look_up(directory, name);
  if (!entry) fail(ENOENT);
  answer_new_entry(request, *entry);
}

void Handler::lookup(Request& request) {
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  if (const auto entry = look_up(parent->fd.get(), name)) {
    answer_new_entry(request, *entry);
  } else if (fs_.entry_timeout() > 0) {
    fuse_entry_out none{};  // node 0: the kernel may remember that there is none
    set_timeout(fs_.entry_timeout(), none.entry_valid, none.entry_valid_nsec);
    answer_with(request, none);
  } else {
    device_.reply_error(request.header.unique, ENOENT);
  }
}

Metadata Handler::metadata_for(const Request& request, const Node& parent,
                               const NewFile& file) const {
  Metadata metadata;
  metadata.mode = file.mode & ~(file.umask & 0777);
  metadata.uid = request.header.uid;
  metadata.gid = request.header.gid;
  metadata.device = file.device;
  const auto above = fs_.attributes_of(parent.fd.get());
  if ((above.mode & S_ISGID) != 0) {
    metadata.gid = above.gid;
    if (S_ISDIR(file.mode)) metadata.mode |= S_ISGID;
  }
  return metadata;
}

/// With metadata=xattr: a file that stands for one of any type, with `content`.
void Handler::make_kept_node(Request& request, const Node& parent, const char* name,
                             const NewFile& file, std::span<const std::byte> content) {
  const auto metadata = metadata_for(request, parent, file);
  const int directory = parent.fd.get();
  if (S_ISDIR(file.mode)) {
    check(::mkdirat(directory, name, kept_directory_mode));
    const core::FileDescriptor made(
        ::openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!made) fail(errno);
    fs_.set_metadata(made.get(), metadata);
    return;
  }
  const core::FileDescriptor made(::openat(
      directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kept_file_mode));
  if (!made) fail(errno);
  try {
    if (::write(made.get(), content.data(), content.size()) !=
        static_cast<ssize_t>(content.size())) {
      fail(ENOSPC);
    }
    fs_.set_metadata(made.get(), metadata);
  } catch (...) {
    ::unlinkat(directory, name, 0);
    throw;
  }
}

void Handler::make_plain_node(Request& request, int parent, const char* name, const NewFile& file) {
  const Making making(*this, request, file.umask);
  if (S_ISDIR(file.mode)) {
    check(::mkdirat(parent, name, file.mode & 07777));
  } else {
    check(::mknodat(parent, name, file.mode, host_device(file.device)));
  }
}

void Handler::mknod(Request& request) {
  const auto in = request.in.take<fuse_mknod_in>();
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  NewFile file{in.mode & (S_IFMT | 07777), in.umask, in.rdev};
  if ((file.mode & S_IFMT) == 0) file.mode |= S_IFREG;
  const bool is_device = S_ISCHR(file.mode) || S_ISBLK(file.mode);
  if (!is_device && !S_ISREG(file.mode) && !S_ISFIFO(file.mode) && !S_ISSOCK(file.mode)) {
    fail(EINVAL);
  }
  if (fs_.keeps_metadata()) {
    make_kept_node(request, *parent, name, file, {});
  } else {
    if (is_device && !fs_.options_.devices) fail(EPERM);
    make_plain_node(request, parent->fd.get(), name, file);
  }
  answer_entry(request, parent->fd.get(), name);
}

void Handler::mkdir(Request& request) {
  const auto in = request.in.take<fuse_mkdir_in>();
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  const NewFile file{S_IFDIR | (in.mode & 07777), in.umask, 0};
  if (fs_.keeps_metadata()) {
    make_kept_node(request, *parent, name, file, {});
  } else {
    make_plain_node(request, parent->fd.get(), name, file);
  }
  answer_entry(request, parent->fd.get(), name);
}

/// What the host is to have as the text of a link that is made in the directory `parent`.
std::string Handler::host_target(std::string_view target, int parent) const {
  switch (fs_.options_.symlinks) {
    case SymlinkPolicy::refuse:
      fail(EPERM);
    case SymlinkPolicy::inside:
      if (target.starts_with('/')) return seen_from_host(target, fs_.host_path_);
      if (!stays_inside(target, depth_of(parent))) fail(EPERM);
      return std::string(target);
    case SymlinkPolicy::keep:
      break;
  }
  return std::string(target);
}

void Handler::symlink(Request& request) {
  const auto* name = checked_name(request.in.take_text());
  const auto target = request.in.take_text();
  if (target.empty()) fail(ENOENT);
  if (target.size() > longest_link) fail(ENAMETOOLONG);
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  const auto text = host_target(target, parent->fd.get());
  if (fs_.keeps_metadata()) {
    make_kept_node(request, *parent, name, {S_IFLNK | 0777, 0, 0}, std::as_bytes(std::span(text)));
  } else {
    const Making making(*this, request, 0);
    check(::symlinkat(text.c_str(), parent->fd.get(), name));
  }
  answer_entry(request, parent->fd.get(), name);
}

void Handler::unlink(Request& request) {
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  check(::unlinkat(parent->fd.get(), name, 0));
  answer_done(request);
}

void Handler::rmdir(Request& request) {
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  check(::unlinkat(parent->fd.get(), name, AT_REMOVEDIR));
  answer_done(request);
}

void Handler::rename(Request& request) {
  move(request, request.in.take<fuse_rename_in>().newdir, 0);
}

void Handler::rename2(Request& request) {
  const auto in = request.in.take<fuse_rename2_in>();
  // RENAME_WHITEOUT would make a device node.
  if ((in.flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) fail(EINVAL);
  move(request, in.newdir, in.flags);
}

void Handler::move(Request& request, std::uint64_t new_parent, std::uint32_t flags) {
  const auto* name = checked_name(request.in.take_text());
  const auto* new_name = checked_name(request.in.take_text());
  const auto from = fs_.nodes_.pin(request.header.nodeid);
  const auto to = fs_.nodes_.pin(new_parent);
  check(::renameat2(from->fd.get(), name, to->fd.get(), new_name, flags));
  answer_done(request);
}

void Handler::link(Request& request) {
  const auto in = request.in.take<fuse_link_in>();
  const auto* name = checked_name(request.in.take_text());
  const auto node = fs_.nodes_.pin(in.oldnodeid);
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  // By our own link: AT_EMPTY_PATH would take a capability that can open any file by its handle.
  check(::linkat(fs_.own_files_.directory(), OwnFileName(node->fd.get()).c_str(), parent->fd.get(),
                 name, AT_SYMLINK_FOLLOW));
  answer_entry(request, parent->fd.get(), name);
}

// --- files that are made and opened in one ---

struct Handler::NewOpenFile {
  fuse_entry_out entry;
  fuse_open_out open;
};

namespace {

/// Of the guest's flags, what concerns the host's file.
int access_flags(std::uint32_t flags) { return static_cast<int>(flags & O_ACCMODE); }

}  // namespace

core::FileDescriptor Handler::open_new(Request& request, const Node& parent, const char* name,
                                       const fuse_create_in& in) {
  const int flags = access_flags(in.flags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  if (fs_.keeps_metadata()) {
    core::FileDescriptor fd(::openat(parent.fd.get(), name, flags, kept_file_mode));
    if (!fd) return fd;
    const auto metadata = metadata_for(request, parent, {S_IFREG | (in.mode & 07777), in.umask, 0});
    fs_.set_metadata(fd.get(), metadata);
    return fd;
  }
  const Making making(*this, request, in.umask);
  return core::FileDescriptor(::openat(parent.fd.get(), name, flags, in.mode & 07777));
}

void Handler::answer_created(Request& request, core::FileDescriptor fd) {
  Found found{fs_.own_files_.reopen(fd.get(), O_PATH), {}};
  check(::fstat(found.fd.get(), &found.status));
  if (!S_ISREG(found.status.st_mode)) fail(EEXIST);
  NewOpenFile out{entry_of(std::move(found)), {}};
  const auto id = out.entry.nodeid;
  try {
    const auto node = fs_.nodes_.pin(id);
    out.open = register_open(*node, id, std::move(fd));
  } catch (...) {
    fs_.nodes_.forget(id, 1);
    throw;
  }
  if (!answer(request, {{&out.entry, sizeof out.entry}, {&out.open, sizeof out.open}})) {
    unregister_open(id, out.open.fh);
    fs_.nodes_.forget(id, 1);
  }
}

void Handler::create(Request& request) {
  const auto in = request.in.take<fuse_create_in>();
  const auto* name = checked_name(request.in.take_text());
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  fs_.files_.require_room();
  auto fd = open_new(request, *parent, name, in);
  if (!fd && errno == EEXIST && (in.flags & O_EXCL) == 0) {
    // Somebody on the host was quicker: then it is a plain open of what they made.
    const auto found = fs_.find_entry(parent->fd.get(), name);
    if (!found) fail(EEXIST);
    if (!S_ISREG(found->status.st_mode)) fail(EEXIST);
    const int truncate = (in.flags & O_TRUNC) != 0 ? O_TRUNC : 0;
    fd = fs_.own_files_.reopen(found->fd.get(), access_flags(in.flags) | truncate);
  }
  if (!fd) fail(errno);
  answer_created(request, std::move(fd));
}

void Handler::tmpfile(Request& request) {
  const auto in = request.in.take<fuse_create_in>();
  (void)request.in.take_text();  // a name for the kernel's own use
  const auto parent = fs_.nodes_.pin(request.header.nodeid);
  if (parent->type != S_IFDIR) fail(ENOTDIR);
  fs_.files_.require_room();
  const int flags =
      access_flags(in.flags) | O_TMPFILE | O_CLOEXEC | static_cast<int>(in.flags & O_EXCL);
  core::FileDescriptor fd;
  if (fs_.keeps_metadata()) {
    fd = core::FileDescriptor(::openat(parent->fd.get(), ".", flags, kept_file_mode));
    if (!fd) fail(errno);
    fs_.set_metadata(fd.get(),
                     metadata_for(request, *parent, {S_IFREG | (in.mode & 07777), in.umask, 0}));
  } else {
    const Making making(*this, request, in.umask);
    fd = core::FileDescriptor(::openat(parent->fd.get(), ".", flags, in.mode & 07777));
    if (!fd) fail(errno);
  }
  answer_created(request, std::move(fd));
}

}  // namespace cowfs::hostfs
