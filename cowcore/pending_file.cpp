#include "cowcore/pending_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "cowcore/errors.hpp"
#include "cowcore/sector_map.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

namespace {

/// Opens the run directory, made if need be.
FileDescriptor make_directory(const fs::path& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    throw_errno(directory.string(), "cannot make the run directory");
  }
  auto fd = pending::open_directory(directory);
  if (!fd) throw Error(directory.string(), "was removed just now");
  return std::move(*fd);
}

}  // namespace

std::optional<fs::path> run_directory() {
  if (::geteuid() == 0) return fs::path("/run/cowfs");
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || runtime[0] != '/') return std::nullopt;
  return fs::path(runtime) / "cowfs";
}

PendingFile::PendingFile(const fs::path& directory, const PosixStorage& cow,
                         const CowDescription& description, Existing existing)
    : directory_(directory),
      name_(pending::name_for(cow.status().identity)),
      words_(SectorMap::words_for(description.layout)) {
  const auto folder = make_directory(directory);
  if (existing == Existing::adopt) {
    take_over(folder.get(), cow);
  } else {
    make(folder.get(), cow, description);
  }
}

void PendingFile::make(int folder, const PosixStorage& cow, const CowDescription& description) {
  const auto path = directory_ / name_;
  const auto temporary = name_ + ".new";
  ::unlinkat(folder, temporary.c_str(), 0);
  fd_ = FileDescriptor(::openat(folder, temporary.c_str(),
                                O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd_) throw_errno(path.string(), "cannot make");
  try {
    if (::ftruncate(fd_.get(), static_cast<off_t>(pending::file_size(words_))) != 0) {
      throw_errno(path.string(), "cannot set the size");
    }
    map_file();
    new (data_.get()) pending::Header(pending::header_for(cow, words_));
    const auto bytes = pending::first_bytes(cow, description);
    std::memcpy(data_.get() + pending::cow_header_at, bytes.data(), bytes.size());
    if (::renameat(folder, temporary.c_str(), folder, name_.c_str()) != 0) {
      throw_errno(path.string(), "cannot make");
    }
  } catch (...) {
    ::unlinkat(folder, temporary.c_str(), 0);
    throw;
  }
}

void PendingFile::take_over(int folder, const PosixStorage& cow) {
  const auto path = directory_ / name_;
  fd_ =
      FileDescriptor(::openat(folder, name_.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat found {};
  if (!fd_ || ::fstat(fd_.get(), &found) != 0) throw_errno(path.string(), "cannot open");
  const auto refuse = [&path] {
    throw Error(path.string(), "is not the pending file of this COW");
  };
  if (!S_ISREG(found.st_mode) ||
      static_cast<std::size_t>(found.st_size) != pending::file_size(words_))
    refuse();
  map_file();
  const auto wanted = pending::header_for(cow, words_);
  const auto& head = header();
  if (head.magic != wanted.magic || head.boot_id != wanted.boot_id || head.cow != wanted.cow ||
      head.cow_born != wanted.cow_born || head.words != wanted.words) {
    refuse();
  }
  pending::forget_writes_under_way(header());
}

void PendingFile::map_file() {
  const auto path = directory_ / name_;
  // Touching a page that the file system has no room for would be SIGBUS.
  while (::fallocate(fd_.get(), 0, 0, pending::words_at) != 0) {
    if (errno == EOPNOTSUPP) break;
    if (errno != EINTR) throw_errno(path.string(), "cannot reserve space");
  }
  const auto length = pending::file_size(words_);
  void* data =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
  if (data == MAP_FAILED) throw_errno(path.string(), "cannot map");
  data_ = {static_cast<std::byte*>(data), Unmap{length}};
  // Words are touched here and there; what lies around one is no use.
  ::madvise(data, length, MADV_RANDOM);
}

void PendingFile::Unmap::operator()(std::byte* data) const { ::munmap(data, length); }

pending::Header& PendingFile::header() const {
  return *reinterpret_cast<pending::Header*>(data_.get());
}

std::atomic<std::uint64_t>* PendingFile::words() {
  static_assert(sizeof(std::atomic<std::uint64_t>) == 8);
  return reinterpret_cast<std::atomic<std::uint64_t>*>(data_.get() + pending::words_at);
}

void PendingFile::reserve(std::size_t first, std::size_t count) {
  const auto offset = static_cast<off_t>(pending::words_at + first * 8);
  while (::fallocate(fd_.get(), 0, offset, static_cast<off_t>(count * 8)) != 0) {
    if (errno != EINTR) throw_errno((directory_ / name_).string(), "cannot reserve space");
  }
}

void PendingFile::for_each_used(const std::function<void(std::size_t, std::size_t)>& function) {
  pending::for_each_stretch(fd_.get(), words_, function);
}

void PendingFile::note_failure() { pending::note_failure(header()); }
bool PendingFile::has_failed() const { return pending::has_failed(header()); }
void PendingFile::note_write_begins() noexcept { pending::note_write_begins(header()); }
void PendingFile::note_write_ends() noexcept { pending::note_write_ends(header()); }
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

}  // namespace cowfs::core
