// Applying is the flush that the daemon did not come to do, in its order (cow_image.cpp). While it
// runs, the file notes it as a write of the COW like any other: so if this process is killed half
// way, the next one finds bits that still are to be applied, and not a COW that a stranger wrote.

#include "cowcore/left_behind.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <limits>
#include <optional>
#include <span>
#include <system_error>
#include <vector>

#include "cowcore/errors.hpp"
#include "cowcore/file_descriptor.hpp"
#include "cowcore/pending_format.hpp"
#include "cowcore/sector_map.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;
using State = LeftBehind::State;

namespace {

/// How long a write that was under way when the daemon died may have gone on.
constexpr std::int64_t longest_last_write = 2'000'000'000;
constexpr auto end_of_time = std::numeric_limits<std::int64_t>::max();

std::optional<pending::Header> read_header(int fd) {
  alignas(pending::Header) std::array<std::byte, sizeof(pending::Header)> bytes;
  const auto count = ::pread(fd, bytes.data(), bytes.size(), 0);
  if (count != static_cast<ssize_t>(bytes.size())) return std::nullopt;
  return std::bit_cast<pending::Header>(bytes);
}

/// The header where it can be changed, while this object lives.
class MappedHeader {
 public:
  MappedHeader(int fd, const fs::path& file)
      : data_(::mmap(nullptr, pending::page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {
    if (data_ == MAP_FAILED) throw_errno(file.string(), "cannot map");
  }
  MappedHeader(const MappedHeader&) = delete;
  MappedHeader& operator=(const MappedHeader&) = delete;
  ~MappedHeader() { ::munmap(data_, pending::page); }

  pending::Header& operator*() const { return *static_cast<pending::Header*>(data_); }

 private:
  void* data_;
};

/// Reads the words that are not in holes, in pieces: function(first, words).
template <typename Function>
void for_each_word_read(int fd, std::size_t words, Function&& function) {
  pending::for_each_stretch(fd, words, [&](std::size_t first, std::size_t count) {
    std::array<std::uint64_t, 512> buffer;
    for (std::size_t done = 0; done < count;) {
      const auto piece = std::min(buffer.size(), count - done);
      const auto bytes = std::as_writable_bytes(std::span(buffer).first(piece));
      const auto offset = static_cast<off_t>(pending::words_at + (first + done) * 8);
      if (::pread(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
        throw std::system_error(EIO, std::generic_category(), "cannot read pending bits");
      }
      function(first + done, std::span<const std::uint64_t>(buffer).first(piece));
      done += piece;
    }
  });
}

bool is_regular(int fd, std::size_t& size) {
  struct stat found {};
  if (::fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) return false;
  size = static_cast<std::size_t>(found.st_size);
  return true;
}

bool same_cow_header(int fd, const PosixStorage& cow, const CowDescription& description) {
  const auto present = pending::first_bytes(cow, description);
  std::vector<std::byte> noted(present.size());
  const auto count = ::pread(fd, noted.data(), noted.size(), pending::cow_header_at);
  return count == static_cast<ssize_t>(noted.size()) && noted == present;
}

void set(LeftBehind& left, State state, const char* why) {
  left.state = state;
  left.why = why;
}

/// Decides what a whole file of the right size is worth; sets state and why.
void judge(LeftBehind& left, int fd, const pending::Header& head, const PosixStorage& cow,
           const CowDescription& description) {
  const auto present = pending::header_for(cow, head.words);
  if (head.boot_id != present.boot_id) {
    return set(left, State::stale, "it is from before the last reboot");
  }
  if (head.cow != present.cow || head.cow_born != present.cow_born) {
    return set(left, State::stale, "it belongs to a file that is gone");
  }
  if (head.failed != 0) {
    return set(left, State::failed,
               "a sync of the COW had failed, so some of their data may be lost");
  }
  if (left.sectors == 0) return set(left, State::nothing, "");
  const auto latest = std::max(head.last_begin, head.last_end);
  const auto last_write =
      head.writes_under_way == 0
          ? head.last_end
          : std::min(latest, end_of_time - longest_last_write) + longest_last_write;
  if (pending::nanoseconds(cow.status().modified) > last_write ||
      !same_cow_header(fd, cow, description)) {
    return set(left, State::conflict, "somebody else has written the COW since");
  }
  set(left, State::applicable, "");
}

}  // namespace

LeftBehind find_left_behind(const fs::path& directory, const PosixStorage& cow,
                            const CowDescription& description) {
  LeftBehind left;
  const auto folder = pending::open_directory(directory);
  if (!folder) return left;
  const auto name = pending::name_for(cow.status().identity);
  const FileDescriptor fd(
      ::openat(folder->get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd && errno == ENOENT) return left;
  left.file = directory / name;
  if (!fd && errno != ELOOP) throw_errno(left.file.string(), "cannot open");

  std::size_t size = 0;
  const auto head =
      fd && is_regular(fd.get(), size) ? read_header(fd.get()) : std::optional<pending::Header>();
  if (!head || head->magic != pending::file_magic) {
    set(left, State::damaged, "it is damaged");
    return left;
  }
  const auto words = SectorMap::words_for(description.layout);
  if (head->words != words) {
    set(left, State::stale, "it belongs to a COW of another size");
    return left;
  }
  if (size != pending::file_size(words)) {
    set(left, State::damaged, "it is damaged");
    return left;
  }
  for_each_word_read(fd.get(), words, [&](std::size_t, std::span<const std::uint64_t> piece) {
    for (const auto word : piece) left.sectors += static_cast<unsigned>(std::popcount(word));
  });
  judge(left, fd.get(), *head, cow, description);
  return left;
}

void apply_left_behind(const LeftBehind& left, Storage& cow, const CowDescription& description) {
  if (left.state != State::applicable && left.state != State::conflict &&
      left.state != State::failed) {
    throw Error(cow.name(), "nothing that a killed mount has left can be applied");
  }
  const FileDescriptor fd(::open(left.file.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd) throw_errno(left.file.string(), "cannot open");
  const MappedHeader header(fd.get(), left.file);

  SectorMap map(cow, description.layout);
  for_each_word_read(fd.get(), SectorMap::words_for(description.layout),
                     [&](std::size_t first, std::span<const std::uint64_t> piece) {
                       for (std::size_t i = 0; i < piece.size(); ++i) {
                         map.set_word(first + i, piece[i]);
                       }
                     });
  PendingWords words;
  map.take_pending(words);
  const auto sync = [&] {
    try {
      cow.sync();
    } catch (...) {
      pending::note_failure(*header);  // a second one would claim success
      throw;
    }
  };
  sync();
  // From here on the times are ours: what was written before has been judged.
  pending::forget_writes_under_way(*header);
  pending::note_write_begins(*header);
  map.write_pending(words);
  pending::note_write_ends(*header);
  sync();
  drop_left_behind(left);
}

void drop_left_behind(const LeftBehind& left) {
  if (left.file.empty()) return;
  if (::unlink(left.file.c_str()) != 0 && errno != ENOENT) {
    throw_errno(left.file.string(), "cannot remove");
  }
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
    case State::damaged:
      throw Error(
          cow.name(),
          fmt::format("a mount that was killed has left {}, but {}", left.file.string(), left.why),
          "what it says is lost: give it up with `cowfs check --drop-pending`");
    case State::conflict:
    case State::failed:
      break;
  }
  throw Error(cow.name(), fmt::format("{} ({}), but {}", what, left.file.string(), left.why),
              "choose: `cowfs check --apply-pending` or `cowfs check --drop-pending`");
}

}  // namespace cowfs::core
