#include "cowcore/pending_format.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <ctime>
#include <limits>
#include <system_error>

#include "cowcore/errors.hpp"

namespace cowfs::core::pending {

namespace fs = boost::filesystem;

namespace {

std::int64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return nanoseconds(time);
}

void raise(std::int64_t& value, std::int64_t to) {
  const std::atomic_ref shared(value);
  auto seen = shared.load(std::memory_order_relaxed);
  while (seen < to && !shared.compare_exchange_weak(seen, to, std::memory_order_relaxed)) {
  }
}

std::array<char, 40> boot_id() {
  fs::ifstream file("/proc/sys/kernel/random/boot_id");
  std::array<char, 40> id{};
  file.read(id.data(), id.size() - 1);
  if (file.gcount() == 0) throw Error("/proc/sys/kernel/random/boot_id", "cannot read");
  return id;
}

}  // namespace

std::int64_t birth_of(const PosixStorage& file) {
  struct statx found {};
  if (::statx(file.descriptor(), "", AT_EMPTY_PATH, STATX_BTIME, &found) != 0 ||
      (found.stx_mask & STATX_BTIME) == 0) {
    return 0;  // the file system does not know
  }
  return nanoseconds({found.stx_btime.tv_sec, found.stx_btime.tv_nsec});
}

std::int64_t nanoseconds(const timespec& time) {
  // A file's time can be set to what does not fit: it must not come round as an early one.
  std::int64_t value = 0;
  if (__builtin_mul_overflow(std::int64_t{time.tv_sec}, 1'000'000'000, &value) ||
      __builtin_add_overflow(value, std::int64_t{time.tv_nsec}, &value)) {
    using Limits = std::numeric_limits<std::int64_t>;
    return time.tv_sec < 0 ? Limits::min() : Limits::max();
  }
  return value;
}

std::string name_for(const FileIdentity& cow) {
  return fmt::format("pending-{:x}-{:x}", cow.device, cow.inode);
}

Header header_for(const PosixStorage& cow, std::size_t words) {
  Header header{};
  header.magic = file_magic;
  header.boot_id = boot_id();
  header.cow = cow.status().identity;
  header.cow_born = birth_of(cow);
  header.words = words;
  return header;
}

std::vector<std::byte> first_bytes(const Storage& cow, const CowDescription& description) {
  std::vector<std::byte> bytes(header_length(description.header.format));
  cow.read(0, bytes);
  return bytes;
}

std::optional<FileDescriptor> open_directory(const fs::path& directory) {
  FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::nullopt;
  struct stat found {};
  if (!fd || ::fstat(fd.get(), &found) != 0) throw_errno(directory.string(), "cannot open");
  if (found.st_uid != ::geteuid() || (found.st_mode & 0022) != 0) {
    throw Error(directory.string(), "is not a directory that only its owner, you, can write",
                "remove it, or mend owner and mode");
  }
  return fd;
}

void for_each_stretch(int fd, std::size_t words,
                      const std::function<void(std::size_t, std::size_t)>& function) {
  const auto fail = [] {
    throw std::system_error(errno, std::generic_category(), "cannot look for pending bits");
  };
  const auto end = static_cast<off_t>(file_size(words));
  auto at = static_cast<off_t>(words_at);
  while (at < end) {
    const auto data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) fail();
    if (data < 0 || data >= end) return;
    at = ::lseek(fd, data, SEEK_HOLE);
    if (at < 0) fail();
    const auto stop = std::min(at, end);
    const auto first = (static_cast<std::size_t>(data) - words_at) / 8;
    const auto last = (static_cast<std::size_t>(stop) - words_at + 7) / 8;
    function(first, last - first);
  }
}

// A process that dies between two of these steps leaves a time that is too early only while a write
// counts as under way; see left_behind.cpp for what that is taken for.

void note_write_begins(Header& header) noexcept {
  std::atomic_ref(header.writes_under_way).fetch_add(1, std::memory_order_acq_rel);
  raise(header.last_begin, now());
}

void note_write_ends(Header& header) noexcept {
  raise(header.last_end, now());
  std::atomic_ref(header.writes_under_way).fetch_sub(1, std::memory_order_acq_rel);
}

void forget_writes_under_way(Header& header) noexcept {
  raise(header.last_end, now());
  std::atomic_ref(header.writes_under_way).store(0, std::memory_order_release);
}

void note_failure(Header& header) noexcept { std::atomic_ref(header.failed).store(1); }

bool has_failed(const Header& header) noexcept {
  // atomic_ref has no form for const objects yet; a load changes nothing.
  return std::atomic_ref(const_cast<Header&>(header).failed).load() != 0;
}

}  // namespace cowfs::core::pending
