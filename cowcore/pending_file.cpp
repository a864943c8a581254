// The file: a page with the Header, two pages with the COW's own header, then the words.
//
// It is made whole under a temporary name, and never changes its length. In it change only the
// words, and in the header the times and the mark of failure. Numbers are in the machine's own
// order: the file is worth nothing on another, or after a reboot.

#include "cowcore/pending_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <system_error>
#include <vector>

#include "cowcore/errors.hpp"
#include "cowcore/sector_map.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

/// Lies at the start of the file. `words` and what is above it is what has to match.
struct PendingFile::Header {
  std::array<char, 8> magic;
  std::array<char, 40> boot_id;
  FileIdentity cow;
  std::int64_t cow_born;  ///< nanoseconds since 1970: an inode number may be used again
  std::uint64_t words;

  std::atomic<std::uint32_t> failed;
  std::atomic<std::uint32_t> writes_under_way;
  std::atomic<std::int64_t> last_begin;  ///< nanoseconds since 1970
  std::atomic<std::int64_t> last_end;
};

namespace {

constexpr std::array<char, 8> file_magic{'c', 'o', 'w', 'f', 's', 'P', '0', '1'};
constexpr std::size_t page = 4096;
constexpr std::size_t cow_header_at = page;
constexpr std::size_t words_at = 3 * page;
static_assert(cow_header_at + longest_header <= words_at);

/// How long a write that was under way when the daemon died may have gone on.
constexpr std::int64_t longest_last_write = 2'000'000'000;

[[noreturn]] void throw_errno(const fs::path& path, const char* action) {
  throw std::system_error(errno, std::generic_category(),
                          fmt::format("{}: {}", path.string(), action));
}

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::int64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return nanoseconds(time);
}

void raise(std::atomic<std::int64_t>& value, std::int64_t to) {
  auto seen = value.load(std::memory_order_relaxed);
  while (seen < to && !value.compare_exchange_weak(seen, to, std::memory_order_relaxed)) {
  }
}

std::array<char, 40> boot_id() {
  fs::ifstream file("/proc/sys/kernel/random/boot_id");
  std::array<char, 40> id{};
  file.read(id.data(), id.size() - 1);
  if (file.gcount() == 0) throw Error("/proc/sys/kernel/random/boot_id", "cannot read");
  return id;
}

std::int64_t birth_of(const PosixStorage& file) {
  struct statx found {};
  if (::statx(file.descriptor(), "", AT_EMPTY_PATH, STATX_BTIME, &found) != 0 ||
      (found.stx_mask & STATX_BTIME) == 0) {
    return 0;  // the file system does not know
  }
  return found.stx_btime.tv_sec * 1'000'000'000 + found.stx_btime.tv_nsec;
}

std::string name_for(const FileIdentity& cow) {
  return fmt::format("pending-{:x}-{:x}", cow.device, cow.inode);
}

std::size_t words_for(const CowLayout& layout) { return SectorMap::words_for(layout); }

/// Opens the directory, made if need be, and makes sure that nobody else can put files there.
FileDescriptor open_directory(const fs::path& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    throw_errno(directory, "cannot make the run directory");
  }
  FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (!fd || ::fstat(fd.get(), &found) != 0) throw_errno(directory, "cannot open");
  if (found.st_uid != ::geteuid() || (found.st_mode & 0022) != 0) {
    throw Error(directory.string(), "is not a directory that only its owner, you, can write",
                "remove it, or mend owner and mode");
  }
  return fd;
}

template <typename Value>
std::optional<Value> read_at(int fd, std::size_t offset) {
  alignas(Value) std::array<std::byte, sizeof(Value)> bytes;
  if (::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(bytes.size())) {
    return std::nullopt;
  }
  return std::bit_cast<Value>(bytes);
}

/// The header as plain values, for a file that is only looked at.
struct HeaderValues {
  std::array<char, 8> magic;
  std::array<char, 40> boot_id;
  FileIdentity cow;
  std::int64_t cow_born;
  std::uint64_t words;
  std::uint32_t failed;
  std::uint32_t writes_under_way;
  std::int64_t last_begin;
  std::int64_t last_end;
};

static_assert(std::is_trivially_copyable_v<HeaderValues>);

/// Calls function(first, count) for the stretches of words that are not holes of the file.
void for_each_stretch(int fd, std::size_t words,
                      const std::function<void(std::size_t, std::size_t)>& function) {
  const auto end = static_cast<off_t>(words_at + words * 8);
  auto at = static_cast<off_t>(words_at);
  while (at < end) {
    const auto data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 || data >= end) return;
    const auto hole = std::min(::lseek(fd, data, SEEK_HOLE), end);
    const auto first = (static_cast<std::size_t>(data) - words_at) / 8;
    const auto last = (static_cast<std::size_t>(hole) - words_at + 7) / 8;
    function(first, last - first);
    at = hole;
  }
}

/// Reads the words that are not zero, in pieces: function(first, words).
template <typename Function>
void for_each_word_read(int fd, std::size_t words, Function&& function) {
  for_each_stretch(fd, words, [&](std::size_t first, std::size_t count) {
    std::array<std::uint64_t, 512> buffer;
    for (std::size_t done = 0; done < count;) {
      const auto piece = std::min(buffer.size(), count - done);
      const auto bytes = std::as_writable_bytes(std::span(buffer).first(piece));
      const auto offset = static_cast<off_t>(words_at + (first + done) * 8);
      if (::pread(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
        throw std::system_error(EIO, std::generic_category(), "cannot read pending bits");
      }
      function(first + done, std::span<const std::uint64_t>(buffer).first(piece));
      done += piece;
    }
  });
}

std::vector<std::byte> first_bytes(const Storage& cow, const CowDescription& description) {
  std::vector<std::byte> bytes(header_length(description.header.format));
  cow.read(0, bytes);
  return bytes;
}

}  // namespace

std::optional<fs::path> run_directory() {
  if (::geteuid() == 0) return fs::path("/run/cowfs");
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || runtime[0] != '/') return std::nullopt;
  return fs::path(runtime) / "cowfs";
}

static_assert(sizeof(HeaderValues) <= page);

PendingFile::PendingFile(const fs::path& directory, const PosixStorage& cow,
                         const CowDescription& description, Existing existing)
    : directory_(directory), name_(name_for(cow.status().identity)) {
  const auto words = words_for(description.layout);
  length_ = words_at + words * 8;
  const auto folder = open_directory(directory);
  const auto path = directory / name_;
  const bool adopt = existing == Existing::adopt;
  const auto temporary = name_ + ".new";
  if (adopt) {
    fd_ = FileDescriptor(::openat(folder.get(), name_.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  } else {
    ::unlinkat(folder.get(), temporary.c_str(), 0);
    fd_ = FileDescriptor(::openat(folder.get(), temporary.c_str(),
                                  O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd_ && ::ftruncate(fd_.get(), static_cast<off_t>(length_)) != 0) {
      throw_errno(path, "cannot set the size");
    }
  }
  struct stat found {};
  if (!fd_ || ::fstat(fd_.get(), &found) != 0) throw_errno(path, "cannot open");
  if (static_cast<std::size_t>(found.st_size) != length_ || !S_ISREG(found.st_mode)) {
    throw Error(path.string(), "is not the pending file of this COW");
  }
  // Touching a page that the file system has no room for would be SIGBUS.
  if (::fallocate(fd_.get(), 0, 0, words_at) != 0 && errno != EOPNOTSUPP) {
    throw_errno(path, "cannot reserve space");
  }
  void* data =
      ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
  if (data == MAP_FAILED) throw_errno(path, "cannot map");
  data_ = data;
  if (adopt) return;

  auto& head = *new (data_) Header{};
  head.magic = file_magic;
  head.boot_id = boot_id();
  head.cow = cow.status().identity;
  head.cow_born = birth_of(cow);
  head.words = words;
  const auto bytes = first_bytes(cow, description);
  std::memcpy(static_cast<std::byte*>(data_) + cow_header_at, bytes.data(), bytes.size());
  if (::renameat(folder.get(), temporary.c_str(), folder.get(), name_.c_str()) != 0) {
    throw_errno(path, "cannot make");
  }
}

PendingFile::~PendingFile() {
  if (data_ != nullptr) ::munmap(data_, length_);
}

PendingFile::Header& PendingFile::header() const { return *static_cast<Header*>(data_); }

std::atomic<std::uint64_t>* PendingFile::words() {
  static_assert(sizeof(std::atomic<std::uint64_t>) == 8);
  return reinterpret_cast<std::atomic<std::uint64_t>*>(static_cast<std::byte*>(data_) + words_at);
}

void PendingFile::reserve(std::size_t first, std::size_t count) {
  const auto offset = static_cast<off_t>(words_at + first * 8);
  while (::fallocate(fd_.get(), 0, offset, static_cast<off_t>(count * 8)) != 0) {
    if (errno != EINTR) throw_errno(directory_ / name_, "cannot reserve space");
  }
}

void PendingFile::for_each_used(const std::function<void(std::size_t, std::size_t)>& function) {
  for_each_stretch(fd_.get(), header().words, function);
}

void PendingFile::note_failure() { header().failed = 1; }
bool PendingFile::has_failed() const { return header().failed != 0; }

void PendingFile::note_write_begins() noexcept {
  header().writes_under_way.fetch_add(1, std::memory_order_acq_rel);
  raise(header().last_begin, now());
}

void PendingFile::note_write_ends() noexcept {
  raise(header().last_end, now());
  header().writes_under_way.fetch_sub(1, std::memory_order_acq_rel);
}

void PendingFile::remove() { ::unlink((directory_ / name_).c_str()); }

namespace {

/// Passes everything on, and notes the changes.
class WatchedStorage final : public Storage {
 public:
  WatchedStorage(std::unique_ptr<Storage> file, PendingFile& pending)
      : file_(std::move(file)), pending_(pending) {}

  [[nodiscard]] const std::string& name() const override { return file_->name(); }
  [[nodiscard]] FileStatus status() const override { return file_->status(); }
  [[nodiscard]] SpaceStatus space() const override { return file_->space(); }
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override {
    return file_->read(offset, into);
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    const Noted noted(pending_);
    file_->write(offset, from);
  }
  void sync() override { file_->sync(); }
  void punch(std::uint64_t offset, std::uint64_t length) override {
    const Noted noted(pending_);
    file_->punch(offset, length);
  }
  void reserve(std::uint64_t offset, std::uint64_t length) override {
    const Noted noted(pending_);
    file_->reserve(offset, length);
  }
  void resize(std::uint64_t size) override {
    const Noted noted(pending_);
    file_->resize(size);
  }
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override {
    return file_->next_data(offset);
  }
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override {
    return file_->next_hole(offset);
  }
  [[nodiscard]] std::optional<Mapping> map(std::uint64_t offset,
                                           std::size_t length) const override {
    return file_->map(offset, length);
  }
  void lock(LockKind kind) override { file_->lock(kind); }

 private:
  class Noted {
   public:
    explicit Noted(PendingFile& pending) : pending_(pending) { pending_.note_write_begins(); }
    Noted(const Noted&) = delete;
    Noted& operator=(const Noted&) = delete;
    ~Noted() { pending_.note_write_ends(); }

   private:
    PendingFile& pending_;
  };

  std::unique_ptr<Storage> file_;
  PendingFile& pending_;
};

}  // namespace

std::unique_ptr<Storage> watch_writes(std::unique_ptr<Storage> cow, PendingFile& pending) {
  return std::make_unique<WatchedStorage>(std::move(cow), pending);
}

// What was left behind

namespace {

using State = LeftBehind::State;

FileDescriptor open_left_behind(const fs::path& file) {
  FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd && errno != ENOENT) throw_errno(file, "cannot open");
  return fd;
}

bool same_cow_header(int fd, const PosixStorage& cow, const CowDescription& description) {
  const auto present = first_bytes(cow, description);
  std::vector<std::byte> noted(present.size());
  const auto count = ::pread(fd, noted.data(), noted.size(), cow_header_at);
  return count == static_cast<ssize_t>(noted.size()) && noted == present;
}

/// Decides what the file is worth; sets state and why.
void judge(LeftBehind& left, int fd, const HeaderValues& head, const PosixStorage& cow,
           const CowDescription& description) {
  const auto set = [&left](State state, const char* why) {
    left.state = state;
    left.why = why;
  };
  if (head.boot_id != boot_id()) return set(State::stale, "it is from before the last reboot");
  const auto status = cow.status();
  if (head.cow != status.identity || head.cow_born != birth_of(cow)) {
    return set(State::stale, "it belongs to a file that is gone");
  }
  if (head.failed != 0) {
    return set(State::failed, "a sync of the COW had failed, so some of their data may be lost");
  }
  if (left.sectors == 0) return set(State::nothing, "");
  const auto last_write = head.writes_under_way == 0
                              ? head.last_end
                              : std::max(head.last_begin, head.last_end) + longest_last_write;
  if (nanoseconds(status.modified) > last_write || !same_cow_header(fd, cow, description)) {
    return set(State::conflict, "somebody else has written the COW since");
  }
  set(State::applicable, "");
}

}  // namespace

LeftBehind find_left_behind(const fs::path& directory, const PosixStorage& cow,
                            const CowDescription& description) {
  LeftBehind left;
  left.file = directory / name_for(cow.status().identity);
  const auto fd = open_left_behind(left.file);
  if (!fd) return left;
  const auto words = words_for(description.layout);
  const auto head = read_at<HeaderValues>(fd.get(), 0);
  struct stat found {};
  const bool whole =
      ::fstat(fd.get(), &found) == 0 && S_ISREG(found.st_mode) && head && head->magic == file_magic;
  if (!whole) {
    left.state = State::damaged;
    left.why = "it is damaged";
    return left;
  }
  if (head->words != words || static_cast<std::size_t>(found.st_size) != words_at + words * 8) {
    left.state = State::stale;
    left.why = "it belongs to a COW of another size";
    return left;
  }
  for_each_word_read(fd.get(), words, [&](std::size_t, std::span<const std::uint64_t> piece) {
    for (const auto word : piece) left.sectors += static_cast<unsigned>(std::popcount(word));
  });
  judge(left, fd.get(), *head, cow, description);
  return left;
}

void apply_left_behind(const LeftBehind& left, PosixStorage& cow,
                       const CowDescription& description) {
  const auto fd = open_left_behind(left.file);
  if (!fd) throw_errno(left.file, "cannot open");
  SectorMap map(cow, description.layout);
  for_each_word_read(fd.get(), words_for(description.layout),
                     [&](std::size_t first, std::span<const std::uint64_t> piece) {
                       for (std::size_t i = 0; i < piece.size(); ++i) {
                         map.set_word(first + i, piece[i]);
                       }
                     });
  // In the order of a flush (cow_image.cpp).
  PendingWords words;
  map.take_pending(words);
  cow.sync();
  map.write_pending(words);
  cow.sync();
  drop_left_behind(left);
}

void drop_left_behind(const LeftBehind& left) {
  if (::unlink(left.file.c_str()) != 0 && errno != ENOENT) throw_errno(left.file, "cannot remove");
}

std::string settle_left_behind(const fs::path& directory, PosixStorage& cow,
                               const CowDescription& description, Access access) {
  const auto left = find_left_behind(directory, cow, description);
  const auto what =
      fmt::format("a mount that was killed has left {} written sectors", left.sectors);
  switch (left.state) {
    case State::nothing:
      drop_left_behind(left);
      return {};
    case State::stale:
      drop_left_behind(left);
      return fmt::format("{}: dropped the pending file {}: {}", cow.name(), left.file.string(),
                         left.why);
    case State::applicable:
      if (access == Access::read_only) {
        throw Error(cow.name(), what + " that are not in its bitmap yet",
                    "mount it for writing once, or use `cowfs check --apply-pending`");
      }
      apply_left_behind(left, cow, description);
      return fmt::format("{}: {}; they are in its bitmap now", cow.name(), what);
    case State::conflict:
    case State::failed:
    case State::damaged:
      break;
  }
  throw Error(cow.name(), fmt::format("{} ({}), but {}", what, left.file.string(), left.why),
              "choose: `cowfs check --apply-pending` or `cowfs check --drop-pending`");
}

}  // namespace cowfs::core
