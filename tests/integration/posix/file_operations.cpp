// Calls on open files.

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/integration/posix/side.hpp"

namespace cowfs::tests::posix {
namespace {

long close_file(Side& side, const Call& call, std::string& /*read*/) {
  if (side.fd(call.slot) < 0) {
    errno = EBADF;
    return -1;
  }
  return ::close(side.slot(call.slot).release());
}

long duplicate(Side& side, const Call& call, std::string& /*read*/) {
  return side.keep(call.other_slot, ::fcntl(side.fd(call.slot), F_DUPFD_CLOEXEC, 0));
}

long took(Side& side, long count, std::string& read) {
  if (count > 0) read.assign(side.buffer(), static_cast<std::size_t>(count));
  return count;
}

long read_file(Side& side, const Call& call, std::string& read) {
  return took(side, ::read(side.fd(call.slot), side.buffer(), call.length), read);
}

long read_at(Side& side, const Call& call, std::string& read) {
  return took(side, ::pread(side.fd(call.slot), side.buffer(), call.length, call.offset), read);
}

std::array<iovec, 3> pieces(char* at, std::size_t length) {
  const auto first = length / 3;
  return {iovec{at, first}, iovec{at + first, 0}, iovec{at + first, length - first}};
}

long read_pieces(Side& side, const Call& call, std::string& read) {
  const auto vector = pieces(side.buffer(), call.length);
  return took(side, ::readv(side.fd(call.slot), vector.data(), 3), read);
}

void prepare(Side& side, const Call& call) {
  const auto text = pattern(call, call.length);
  std::memcpy(side.buffer(), text.data(), text.size());
}

long write_file(Side& side, const Call& call, std::string& /*read*/) {
  prepare(side, call);
  return ::write(side.fd(call.slot), side.buffer(), call.length);
}

long write_at(Side& side, const Call& call, std::string& /*read*/) {
  prepare(side, call);
  return ::pwrite(side.fd(call.slot), side.buffer(), call.length, call.offset);
}

long write_pieces(Side& side, const Call& call, std::string& /*read*/) {
  prepare(side, call);
  const auto vector = pieces(side.buffer(), call.length);
  return ::writev(side.fd(call.slot), vector.data(), 3);
}

long write_with_flags(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array flags{0, RWF_APPEND, RWF_APPEND, RWF_APPEND, RWF_DSYNC};
  prepare(side, call);
  const auto vector = pieces(side.buffer(), call.length);
  return ::pwritev2(side.fd(call.slot), vector.data(), 3, call.offset,
                    maybe(call, 8, 3, 1) != 0 ? pick(call, 0, flags) : RWF_APPEND);
}

long seek(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array whences{SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, SEEK_DATA, 99};
  return ::lseek(side.fd(call.slot), call.offset, pick(call, 0, whences));
}

long truncate_open_file(Side& side, const Call& call, std::string& /*read*/) {
  return ::ftruncate(side.fd(call.slot), call.offset);
}

long allocate(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array modes{0,
                             FALLOC_FL_KEEP_SIZE,
                             FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             FALLOC_FL_ZERO_RANGE,
                             FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                             FALLOC_FL_PUNCH_HOLE,
                             FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
  return ::fallocate(side.fd(call.slot), pick(call, 0, modes), call.offset,
                     static_cast<off_t>(call.length));
}

long shift_content(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array modes{FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE};
  return ::fallocate(side.fd(call.slot), pick(call, 0, modes), call.offset / 4096 * 4096, 4096);
}

long copy_range(Side& side, const Call& call, std::string& /*read*/) {
  off_t from = call.offset;
  off_t to = static_cast<off_t>(call.choice >> 8 & 0x7fff);
  const bool by_position = maybe(call, 0, 2, 1) != 0;
  return ::copy_file_range(side.fd(call.slot), by_position ? nullptr : &from,
                           side.fd(call.other_slot), by_position ? nullptr : &to, call.length, 0);
}

long send_file(Side& side, const Call& call, std::string& /*read*/) {
  off_t from = call.offset;
  return ::sendfile(side.fd(call.other_slot), side.fd(call.slot),
                    maybe(call, 0, 2, 1) != 0 ? nullptr : &from, call.length);
}

long sync_file(Side& side, const Call& call, std::string& /*read*/) {
  return maybe(call, 0, 2, 1) != 0 ? ::fsync(side.fd(call.slot)) : ::fdatasync(side.fd(call.slot));
}

long lock_whole(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array operations{LOCK_SH, LOCK_EX, LOCK_UN, LOCK_EX};
  return ::flock(side.fd(call.slot), pick(call, 0, operations) | LOCK_NB);
}

struct flock random_lock(const Call& call) {
  constexpr std::array<short, 4> types{F_RDLCK, F_WRLCK, F_WRLCK, F_UNLCK};
  constexpr std::array<short, 4> whences{SEEK_SET, SEEK_SET, SEEK_CUR, SEEK_END};
  struct flock lock {};
  lock.l_type = pick(call, 8, types);
  lock.l_whence = pick(call, 16, whences);
  lock.l_start = call.offset % 40;
  lock.l_len = static_cast<off_t>(call.length % 40) - static_cast<off_t>(call.choice >> 24 & 7);
  return lock;
}

long lock_range(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array commands{F_SETLK, F_OFD_SETLK, F_OFD_SETLK};
  auto lock = random_lock(call);
  return ::fcntl(side.fd(call.slot), pick(call, 0, commands), &lock);
}

long test_lock(Side& side, const Call& call, std::string& read) {
  constexpr std::array commands{F_GETLK, F_OFD_GETLK};
  auto lock = random_lock(call);
  if (::fcntl(side.fd(call.slot), pick(call, 0, commands), &lock) != 0) return -1;
  // Of several locks in the way, any may be told.
  read = lock.l_type == F_UNLCK ? "free" : "locked";
  return 0;
}

long change_flags(Side& side, const Call& call, std::string& read) {
  const int flags = ::fcntl(side.fd(call.slot), F_GETFL);
  if (flags < 0) return -1;
  read = fmt::format("{:o}", static_cast<unsigned>(flags));
  return ::fcntl(side.fd(call.slot), F_SETFL, flags ^ maybe(call, 0, 2, O_APPEND));
}

/// Reads by a mapping, and writes where the file has content; what is past its end would be a
/// signal.
long use_mapping(Side& side, const Call& call, std::string& read) {
  const bool writes = maybe(call, 0, 2, 1) != 0;
  const int kind = maybe(call, 8, 3, 1) != 0 ? MAP_PRIVATE : MAP_SHARED;
  const std::size_t length = 16384;
  void* at = ::mmap(nullptr, length, writes ? PROT_READ | PROT_WRITE : PROT_READ, kind,
                    side.fd(call.slot), 0);
  if (at == MAP_FAILED) return -1;
  struct stat status {};
  const bool known = ::fstat(side.fd(call.slot), &status) == 0 && S_ISREG(status.st_mode);
  const auto there =
      std::min<std::size_t>(length, known ? static_cast<std::size_t>(status.st_size) : 0);
  auto* bytes = static_cast<char*>(at);
  read.assign(bytes, there);
  if (writes) {
    const auto begin = std::min<std::size_t>(there, call.choice >> 16 & 0x3fff);
    const auto text = pattern(call, std::min(call.length, there - begin));
    std::ranges::copy(text, bytes + begin);
  }
  const long result = ::msync(at, length, MS_SYNC);
  ::munmap(at, length);
  // The new time may be shown late, as a change on the host may: by a mapping no request is made.
  struct statx now {};
  ::statx(side.fd(call.slot), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_MTIME, &now);
  return result;
}

constexpr std::array operations{
    Operation{"close", 8, close_file},
    Operation{"dup", 3, duplicate},
    Operation{"read", 8, read_file},
    Operation{"pread", 8, read_at},
    Operation{"readv", 4, read_pieces},
    Operation{"write", 12, write_file},
    Operation{"pwrite", 12, write_at},
    Operation{"writev", 4, write_pieces},
    Operation{"pwritev2", 6, write_with_flags},
    Operation{"lseek", 8, seek},
    Operation{"ftruncate", 8, truncate_open_file},
    Operation{"fallocate", 8, allocate},
    Operation{"fallocate-shift", 1, shift_content},
    Operation{"copy_file_range", 5, copy_range},
    Operation{"sendfile", 4, send_file},
    Operation{"fsync", 1, sync_file},
    Operation{"flock", 4, lock_whole},
    Operation{"lock", 8, lock_range},
    Operation{"test-lock", 6, test_lock},
    Operation{"flags", 3, change_flags},
    Operation{"mmap", 4, use_mapping},
};

}  // namespace

std::span<const Operation> file_operations() { return operations; }

}  // namespace cowfs::tests::posix
