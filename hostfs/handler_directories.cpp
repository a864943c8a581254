// Requests that list directories.
//
// What is listed is what a lookup would find: with attributes, entries that may not be seen are
// left out. A file's position is the host's own, so a listing goes on where it was whatever is
// made and removed meanwhile, as on the host.

#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {

/// What getdents64(2) puts before a name.
struct DirectoryRecord {
  std::uint64_t inode;
  std::int64_t next;
  std::uint16_t length;
  std::uint8_t type;
  char name[1];
};

namespace {

constexpr std::size_t record_name_offset = 19;

bool is_dot(std::string_view name) { return name == "." || name == ".."; }

fuse_dirent dirent_of(const DirectoryRecord& record, std::string_view name) {
  fuse_dirent entry{};
  entry.ino = record.inode;
  entry.off = static_cast<std::uint64_t>(record.next);
  entry.namelen = static_cast<std::uint32_t>(name.size());
  entry.type = record.type;
  return entry;
}

void go_to(int directory, std::uint64_t position) {
  if (::lseek(directory, static_cast<off_t>(position), SEEK_SET) >= 0) return;
  const int error = errno;
  // One that was removed on the host: there ext4 no longer knows its own positions.
  struct stat status {};
  check(::fstat(directory, &status));
  fail(status.st_nlink == 0 ? ENOENT : error);
}

}  // namespace

/// A reply that is being filled.
struct Handler::Listing {
  std::span<std::byte> room;
  std::size_t used = 0;

  /// Puts in a structure and a name after it, if there is room for both.
  template <typename Head>
  bool add(const Head& head, std::string_view name) {
    const auto length = FUSE_DIRENT_ALIGN(sizeof head + name.size());
    if (length > room.size() - used) return false;
    auto* at = room.data() + used;
    std::memcpy(at, &head, sizeof head);
    std::memcpy(at + sizeof head, name.data(), name.size());
    std::memset(at + sizeof head + name.size(), 0, length - sizeof head - name.size());
    used += length;
    return true;
  }
};

void Handler::opendir(Request& request) {
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  if (node->type != S_IFDIR) fail(ENOTDIR);
  fs_.files_.require_room();
  core::FileDescriptor fd(
      ::openat(node->fd.get(), ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) fail(errno);
  fuse_open_out out{};
  if (fs_.options_.cache == CachePolicy::always) {
    out.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
  }
  out.fh = fs_.files_.add({std::move(fd), request.header.nodeid, true, 0, false});
  if (!answer_with(request, out)) fs_.files_.release(out.fh);
}

void Handler::releasedir(Request& request) {
  const auto in = request.in.take<fuse_release_in>();
  { (void)fs_.files_.pin(in.fh, request.header.nodeid, true); }
  fs_.files_.release(in.fh);
  answer_done(request);
}

void Handler::fsyncdir(Request& request) {
  const auto in = request.in.take<fuse_fsync_in>();
  const auto directory = fs_.files_.pin(in.fh, request.header.nodeid, true);
  const bool data_only = (in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  const int result = data_only ? ::fdatasync(directory.fd()) : ::fsync(directory.fd());
  if (result != 0) fail(errno);
  answer_done(request);
}

void Handler::readdir(Request& request) { list(request, false); }
void Handler::readdirplus(Request& request) { list(request, true); }

bool Handler::add_plain(Listing& listing, const DirectoryRecord& record, int directory) {
  const std::string_view name(record.name);
  const bool may_be_hidden = fs_.hidden_ && fs_.hidden_->inode == record.inode && !is_dot(name);
  if (may_be_hidden && !fs_.find_entry(directory, record.name)) return true;
  auto entry = dirent_of(record, name);
  if (fs_.keeps_metadata() && entry.type == DT_REG) entry.type = DT_UNKNOWN;
  return listing.add(entry, name);
}

bool Handler::add_with_attributes(Listing& listing, const DirectoryRecord& record, int directory) {
  const std::string_view name(record.name);
  fuse_direntplus entry{};
  entry.dirent = dirent_of(record, name);
  const auto length = FUSE_DIRENT_ALIGN(sizeof entry + name.size());
  if (length > listing.room.size() - listing.used) return false;
  if (!is_dot(name)) {
    try {
      const auto found = look_up(directory, record.name);
      if (!found) return true;  // gone by now, or not to be seen
      entry.entry_out = *found;
      entry.dirent.type = static_cast<std::uint32_t>(entry.entry_out.attr.mode & S_IFMT) >> 12;
      listed_.push_back(entry.entry_out.nodeid);
    } catch (const std::system_error&) {
      // Node 0: only the name is told; whoever asks for the file gets the error.
    }
  }
  return listing.add(entry, name);
}

void Handler::list(Request& request, bool with_attributes) {
  const auto in = request.in.take<fuse_read_in>();
  const auto directory = fs_.files_.pin(in.fh, request.header.nodeid, true);
  go_to(directory.fd(), in.offset);
  // One half of the buffer for what is read, one for the reply. No more is read than about fits,
  // since what does not fit is read again.
  const auto half = buffer_.size() / 2;
  Listing listing{{buffer_.data() + half, std::min<std::size_t>(in.size, half)}};
  const auto wanted = std::clamp<std::size_t>(in.size / (with_attributes ? 5 : 1), 1024, half);
  const auto count = ::syscall(SYS_getdents64, directory.fd(), buffer_.data(), wanted);
  if (count < 0) fail(errno);
  listed_.clear();
  for (long at = 0; at < count;) {
    const auto& record = *reinterpret_cast<const DirectoryRecord*>(buffer_.data() + at);
    const bool fits = with_attributes ? add_with_attributes(listing, record, directory.fd())
                                      : add_plain(listing, record, directory.fd());
    if (!fits) break;
    at += record.length;
  }
  if (!answer(request, {{listing.room.data(), listing.used}})) {
    for (const auto id : listed_) fs_.nodes_.forget(id, 1);
  }
}

static_assert(offsetof(DirectoryRecord, name) == record_name_offset);

}  // namespace cowfs::hostfs
