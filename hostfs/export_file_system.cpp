#include "hostfs/export_file_system.hpp"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "fuse/newer_protocol.hpp"
#include "hostfs/handler.hpp"
#include "hostfs/message.hpp"

namespace cowfs::hostfs {
namespace {

/// The kernel may believe for a day what nobody else changes.
constexpr double unchanging_seconds = 86400.0;

/// Descriptors that the daemon can have open.
std::uint32_t descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) fail(errno);
  return static_cast<std::uint32_t>(std::min<rlim_t>(limit.rlim_cur, 1U << 30));
}

// Shares of it: what is left is for locks, and to work with.
std::uint32_t inode_limit(std::uint32_t wanted) {
  const auto most = descriptor_limit() / 16 * 13;
  return wanted == 0 ? most : std::min(wanted, most);
}
std::uint32_t open_limit(std::uint32_t wanted) {
  const auto most = descriptor_limit() / 8;
  return wanted == 0 ? most : std::min(wanted, most);
}
std::uint32_t lock_limit() { return descriptor_limit() / 32; }

FileKey key_of(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail(errno);
  return {status.st_dev, status.st_ino};
}

}  // namespace

ExportFileSystem::ExportFileSystem(ExportSetup setup, const fuse::Device& device, fuse::Log& log)
    : options_(std::move(setup.options)),
      host_path_(std::move(setup.host_path)),
      hidden_(setup.hidden),
      daemon_(setup.daemon),
      root_(key_of(setup.root.get())),
      device_(device),
      log_(log),
      own_files_(std::move(setup.own_files)),
      identity_(options_, setup.is_root),
      nodes_(std::move(setup.root), root_, inode_limit(options_.max_inodes)),
      files_(open_limit(options_.max_open)),
      locks_(lock_limit(),
             [this](std::uint64_t unique, int error) { device_.reply_error(unique, error); }),
      passthrough_(std::move(setup.broker)),
      pruner_(nodes_, device) {}

const fuse_lowlevel_ops& ExportFileSystem::operations() const {
  static const fuse_lowlevel_ops nothing{};  // the handler answers everything
  return nothing;
}

std::unique_ptr<fuse::RequestHandler> ExportFileSystem::new_handler(const fuse::Device& device) {
  return std::make_unique<Handler>(*this, device);
}

void ExportFileSystem::negotiate(fuse_conn_info& connection) {
  connection.max_background = 64;
  connection.congestion_threshold = 48;
}

std::uint32_t ExportFileSystem::choose_flags2(std::uint32_t offered) const {
  std::uint32_t wanted = fuse::create_supp_group | fuse::direct_io_allow_mmap;
  // Writes that go past the daemon would keep set-ID bits that only an attribute says.
  if (options_.passthrough && passthrough_.is_possible() && !keeps_metadata()) {
    wanted |= fuse::passthrough;
  }
  return offered & wanted;
}

void ExportFileSystem::amend_init(std::uint64_t offered, fuse_init_out& reply) {
  std::uint32_t wanted = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS |
                         FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DONT_MASK |
                         FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                         FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_HAS_IOCTL_DIR |
                         FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT;
  if (options_.cache == CachePolicy::automatic) wanted |= FUSE_AUTO_INVAL_DATA;
  // A link's text never changes; but whether it may be seen depends on where it is.
  if (options_.symlinks == SymlinkPolicy::keep) wanted |= FUSE_CACHE_SYMLINKS;
  if (options_.xattrs == XattrPolicy::acl) wanted |= FUSE_POSIX_ACL;
  const auto chosen = wanted & static_cast<std::uint32_t>(offered);
  reply.flags = (reply.flags & FUSE_INIT_EXT) | chosen;
  tells_who_keeps_set_ids_ = (chosen & FUSE_HANDLE_KILLPRIV_V2) != 0;
  extended_setxattr_ = (chosen & FUSE_SETXATTR_EXT) != 0;
  reply.max_write = std::uint32_t{fuse::longest_transfer};
  if ((chosen & FUSE_MAX_PAGES) != 0) {
    reply.max_pages = static_cast<std::uint16_t>(fuse::longest_transfer / 4096);
  }
  if ((reply.flags2 & fuse::passthrough) != 0) {
    fuse::set_max_stack_depth(reply, 1);
    passthrough_.enable();
  }
}

double ExportFileSystem::entry_timeout() const {
  switch (options_.cache) {
    case CachePolicy::always:
      return unchanging_seconds;
    case CachePolicy::never:
      return 0;
    case CachePolicy::automatic:
      break;
  }
  return options_.timeout;
}

std::optional<ExportFileSystem::Found> ExportFileSystem::find_entry(int directory,
                                                                    const char* name) const {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (!options_.submounts) how.resolve |= RESOLVE_NO_XDEV;
  Found found{core::FileDescriptor(
                  static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof how))),
              {}};
  if (!found.fd) {
    // EXDEV: something is mounted there.
    if (errno == ENOENT || errno == EXDEV) return std::nullopt;
    fail(errno);
  }
  if (::fstat(found.fd.get(), &found.status) != 0) fail(errno);
  if (hidden_ && *hidden_ == FileKey{found.status.st_dev, found.status.st_ino}) {
    return std::nullopt;
  }
  return found;
}

fuse_attr ExportFileSystem::attributes_of(const struct stat& status,
                                          const std::optional<Metadata>& metadata) const {
  fuse_attr attr{};
  // Below a mount point numbers may be the same as above it.
  const auto elsewhere = status.st_dev == root_.device ? 0 : status.st_dev * 0x9e3779b97f4a7c15U;
  attr.ino = status.st_ino ^ elsewhere;
  attr.size = static_cast<std::uint64_t>(status.st_size);
  attr.blocks = static_cast<std::uint64_t>(status.st_blocks);
  attr.atime = static_cast<std::uint64_t>(status.st_atim.tv_sec);
  attr.mtime = static_cast<std::uint64_t>(status.st_mtim.tv_sec);
  attr.ctime = static_cast<std::uint64_t>(status.st_ctim.tv_sec);
  attr.atimensec = static_cast<std::uint32_t>(status.st_atim.tv_nsec);
  attr.mtimensec = static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
  attr.ctimensec = static_cast<std::uint32_t>(status.st_ctim.tv_nsec);
  attr.nlink = static_cast<std::uint32_t>(status.st_nlink);
  attr.blksize = static_cast<std::uint32_t>(status.st_blksize);
  if (metadata) {
    attr.mode = metadata->mode;
    attr.uid = metadata->uid;
    attr.gid = metadata->gid;
    attr.rdev = metadata->device;
  } else {
    attr.mode = status.st_mode;
    attr.uid = options_.users.shown(status.st_uid);
    attr.gid = options_.groups.shown(status.st_gid);
    attr.rdev = message_device(status.st_rdev);
  }
  return attr;
}

fuse_attr ExportFileSystem::attributes_of(int fd) const {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail(errno);
  return attributes_of(status, metadata_of(fd, status.st_mode & S_IFMT));
}

std::optional<Metadata> ExportFileSystem::metadata_of(int fd, mode_t type) const {
  if (!keeps_metadata() || (type != S_IFREG && type != S_IFDIR)) return std::nullopt;
  std::array<char, 128> text{};
  const auto length = ::getxattr(OwnFileName(fd).c_str(), metadata_xattr, text.data(), text.size());
  if (length < 0) return std::nullopt;
  const auto metadata = decode_metadata({text.data(), static_cast<std::size_t>(length)});
  if (!metadata || !may_stand_for(type, metadata->mode & S_IFMT)) return std::nullopt;
  return metadata;
}

void ExportFileSystem::set_metadata(int fd, const Metadata& metadata) const {
  const auto text = encode_metadata(metadata);
  if (::setxattr(OwnFileName(fd).c_str(), metadata_xattr, text.data(), text.size(), 0) != 0) {
    fail(errno);
  }
}

mode_t ExportFileSystem::shown_mode(const Node& node) const {
  return keeps_metadata() ? attributes_of(node.fd.get()).mode : node.type;
}

}  // namespace cowfs::hostfs
