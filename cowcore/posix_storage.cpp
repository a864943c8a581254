#include "cowcore/posix_storage.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "cowcore/errors.hpp"
#include "cowcore/lock_holder.hpp"

namespace cowfs::core {
namespace {

/// A length that every kernel takes in one call (MAX_RW_COUNT is a little under 2 GiB).
constexpr std::size_t max_transfer = std::size_t{1} << 30;

const char* kind_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "not a regular file";
}

/// Whether the file lies on another machine, which copies a range by itself when asked to.
/// Elsewhere copy_file_range moves the bytes in small pieces, slower than read and write.
bool is_remote(int fd) {
  struct statfs found {};
  if (::fstatfs(fd, &found) != 0) return false;
  const auto type = static_cast<std::uint32_t>(found.f_type);
  return type == NFS_SUPER_MAGIC || type == CIFS_SUPER_MAGIC || type == SMB2_SUPER_MAGIC ||
         type == CEPH_SUPER_MAGIC;
}

off_t to_off(std::uint64_t offset) { return static_cast<off_t>(offset); }

}  // namespace

Mapping::~Mapping() {
  // munmap takes a pointer to non-const; nobody writes through it.
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), length_);
}

std::unique_ptr<PosixStorage> PosixStorage::open(const boost::filesystem::path& path, Access access,
                                                 FileKinds kinds) {
  // O_PATH looks without touching: opening a FIFO would wait, opening a tape would rewind it.
  const FileDescriptor handle(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!handle) throw_errno(path.string(), "cannot open");
  struct stat found {};
  if (::fstat(handle.get(), &found) != 0) throw_errno(path.string(), "cannot stat");
  const bool accepted =
      S_ISREG(found.st_mode) || (kinds == FileKinds::regular_or_block && S_ISBLK(found.st_mode));
  if (!accepted) {
    throw Error(path.string(), fmt::format("is {}", kind_name(found.st_mode)),
                kinds == FileKinds::regular ? "give a regular file"
                                            : "give a regular file or a block device");
  }
  const int flags = access == Access::read_write ? O_RDWR : O_RDONLY;
  const auto link = fmt::format("/proc/self/fd/{}", handle.get());
  FileDescriptor fd(::open(link.c_str(), flags | O_CLOEXEC | O_NOCTTY));
  if (!fd) throw_errno(path.string(), "cannot open");
  return std::make_unique<PosixStorage>(std::move(fd), path.string());
}

void PosixStorage::fail(int error, const char* action) const { throw_errno(name_, action, error); }

FileStatus PosixStorage::status() const {
  struct stat found {};
  if (::fstat(fd_.get(), &found) != 0) fail(errno, "cannot stat");
  FileStatus status;
  status.identity = {found.st_dev, found.st_ino};
  status.size = static_cast<std::uint64_t>(found.st_size);
  if (S_ISBLK(found.st_mode) && ::ioctl(fd_.get(), BLKGETSIZE64, &status.size) != 0) {
    fail(errno, "cannot get the size of the device");
  }
  status.allocated = static_cast<std::uint64_t>(found.st_blocks) * 512;
  status.accessed = found.st_atim;
  status.modified = found.st_mtim;
  status.mode = found.st_mode;
  status.owner = found.st_uid;
  status.group = found.st_gid;
  return status;
}

SpaceStatus PosixStorage::space() const {
  struct statvfs found {};
  if (::fstatvfs(fd_.get(), &found) != 0) fail(errno, "cannot stat its file system");
  return {found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize,
          found.f_bavail * found.f_frsize};
}

std::size_t PosixStorage::read(std::uint64_t offset, std::span<std::byte> into) const {
  std::size_t done = 0;
  while (done < into.size()) {
    const auto count = ::pread(fd_.get(), into.data() + done,
                               std::min(into.size() - done, max_transfer), to_off(offset + done));
    if (count == 0) break;
    if (count > 0) {
      done += static_cast<std::size_t>(count);
    } else if (errno != EINTR) {
      fail(errno, "cannot read");
    }
  }
  return done;
}

void PosixStorage::write(std::uint64_t offset, std::span<const std::byte> from) {
  std::size_t done = 0;
  while (done < from.size()) {
    const auto count = ::pwrite(fd_.get(), from.data() + done,
                                std::min(from.size() - done, max_transfer), to_off(offset + done));
    if (count > 0) {
      done += static_cast<std::size_t>(count);
    } else if (count == 0 || errno != EINTR) {
      fail(count == 0 ? ENOSPC : errno, "cannot write");
    }
  }
}

void PosixStorage::sync() {
  // No retry: after a failure the kernel has dropped the pages' dirty marks, and a second call
  // would claim success.
  if (::fdatasync(fd_.get()) != 0) fail(errno, "cannot sync");
}

void PosixStorage::begin_sync(std::uint64_t offset, std::uint64_t length) {
  // Only a hint: what goes wrong is told by the sync.
  ::sync_file_range(fd_.get(), to_off(offset), to_off(length), SYNC_FILE_RANGE_WRITE);
}

void PosixStorage::punch(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  while (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, to_off(offset),
                     to_off(length)) != 0) {
    if (errno == EOPNOTSUPP) return write_zeros(offset, length);
    if (errno != EINTR) fail(errno, "cannot punch a hole");
  }
}

void PosixStorage::write_zeros(std::uint64_t offset, std::uint64_t length) {
  static constexpr std::array<std::byte, 65536> zeros{};
  const auto size = status().size;
  const auto end = std::min(offset + length, size);
  while (offset < end) {
    const auto piece = std::min<std::uint64_t>(zeros.size(), end - offset);
    write(offset, std::span(zeros).first(piece));
    offset += piece;
  }
}

void PosixStorage::reserve(std::uint64_t offset, std::uint64_t length) {
  while (::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, to_off(offset), to_off(length)) != 0) {
    if (errno != EINTR) fail(errno, "cannot reserve space");
  }
}

void PosixStorage::resize(std::uint64_t size) {
  while (::ftruncate(fd_.get(), to_off(size)) != 0) {
    if (errno != EINTR) fail(errno, "cannot set the size");
  }
}

std::optional<std::uint64_t> PosixStorage::next_data(std::uint64_t offset) const {
  const auto found = ::lseek(fd_.get(), to_off(offset), SEEK_DATA);
  if (found >= 0) return static_cast<std::uint64_t>(found);
  if (errno != ENXIO) fail(errno, "cannot look for data");
  return std::nullopt;
}

std::uint64_t PosixStorage::next_hole(std::uint64_t offset) const {
  const auto found = ::lseek(fd_.get(), to_off(offset), SEEK_HOLE);
  if (found >= 0) return static_cast<std::uint64_t>(found);
  if (errno != ENXIO) fail(errno, "cannot look for a hole");
  return offset;  // at or past the end
}

std::uint64_t PosixStorage::clone_from(const Storage& from, std::uint64_t from_offset,
                                       std::uint64_t to_offset, std::uint64_t length) {
  const auto* source = dynamic_cast<const PosixStorage*>(&from);
  if (source == nullptr || length == 0) return 0;
  struct file_clone_range range {};
  range.src_fd = source->descriptor();
  range.src_offset = from_offset;
  range.src_length = length;
  range.dest_offset = to_offset;
  if (::ioctl(fd_.get(), FICLONERANGE, &range) == 0) return length;
  if (errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EFBIG) {
    fail(errno, "cannot write");
  }
  if (!is_remote(fd_.get())) return 0;
  auto in = to_off(from_offset);
  auto out = to_off(to_offset);
  const auto count = ::copy_file_range(source->descriptor(), &in, fd_.get(), &out, length, 0);
  return count > 0 ? static_cast<std::uint64_t>(count) : 0;
}

std::optional<Mapping> PosixStorage::map(std::uint64_t offset, std::size_t length) const {
  void* data = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, fd_.get(), to_off(offset));
  if (data == MAP_FAILED) return std::nullopt;
  // Otherwise a touch reads all that lies around it: the disk's whole readahead, which may be MiB.
  ::madvise(data, length, MADV_RANDOM);
  return Mapping(static_cast<const std::byte*>(data), length);
}

void PosixStorage::prefetch(std::uint64_t offset, std::uint64_t length) const {
  ::posix_fadvise(fd_.get(), to_off(offset), to_off(length), POSIX_FADV_WILLNEED);
}

void PosixStorage::lock(LockKind kind) {
  struct flock whole {};
  whole.l_type = kind == LockKind::exclusive ? F_WRLCK : F_RDLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd_.get(), F_OFD_SETLK, &whole) == 0) return;
  if (errno != EAGAIN && errno != EACCES) fail(errno, "cannot lock");
  const auto holder = lock_holder(fd_.get());
  throw Busy(name_, holder.empty() ? "in use" : fmt::format("in use by {}", holder),
             holder.starts_with("cowfs ") ? "`cowfs umount` it first" : "stop it first");
}

}  // namespace cowfs::core
