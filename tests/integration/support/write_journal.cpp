#include "tests/integration/support/write_journal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "cowcore/sector.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

constexpr std::uint64_t page = 4096;
constexpr std::size_t longest_write = 2'500'000;  // several requests
/// Longer writes the kernel sends as several requests, the first of which may be all that was done.
constexpr std::size_t longest_request = 255 * page;
constexpr std::size_t most_writers = 8;
constexpr std::size_t most_past = 20'000;

enum class Kind : std::uint32_t { write, discard, store };

/// Bytes that follow from a seed; zeros for a discard.
void fill(std::span<std::byte> bytes, Kind kind, std::uint64_t seed) {
  if (kind == Kind::discard) return static_cast<void>(std::ranges::fill(bytes, std::byte{}));
  std::uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  for (auto& byte : bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<std::byte>(state >> 32);
  }
}

}  // namespace

std::vector<WriteBy> writers_of_every_kind() {
  return {WriteBy::plain, WriteBy::direct, WriteBy::plain, WriteBy::direct, WriteBy::mapping};
}

/// A write that has begun and not returned; none if its length is 0.
struct WriteJournal::UnderWay {
  std::uint64_t offset;
  std::atomic<std::uint64_t> length;
  std::uint64_t seed;
  Kind kind;

  [[nodiscard]] Bytes bytes() const {
    Bytes all(length);
    fill(all, kind, seed);
    return all;
  }
};

/// A write that was acknowledged, or whose end nobody knows.
struct WriteJournal::Past {
  std::uint64_t offset;
  std::uint64_t length;
  std::uint64_t seed;
  Kind kind;
};

/// What lies in shared memory; the content follows.
struct WriteJournal::Shared {
  std::atomic<bool> stopped;
  std::atomic<std::uint64_t> acknowledged;
  std::array<UnderWay, most_writers> under_way;
  /// The last writes of each, for the message when one is lost; a ring.
  std::array<std::array<Past, most_past>, most_writers> past;
  std::array<std::uint64_t, most_writers> past_count;
};

WriteJournal::WriteJournal(const Bytes& content, std::vector<WriteBy> writers)
    : writers_(std::move(writers)), size_(content.size()) {
  if (writers_.size() > most_writers) throw std::invalid_argument("too many writers");
  void* memory = ::mmap(nullptr, sizeof(Shared) + size_, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  shared_ = new (memory) Shared;  // all zeros, and most of it never touched
  std::ranges::copy(content, this->content().begin());
}

WriteJournal::~WriteJournal() { ::munmap(shared_, sizeof(Shared) + size_); }

std::span<std::byte> WriteJournal::content() const {
  return {reinterpret_cast<std::byte*>(shared_) + sizeof(Shared), size_};
}

/// Where a writer's part begins, and the one before it ends. A mapping writes whole pages, so it
/// shares none; the others share sectors with their neighbours.
std::uint64_t WriteJournal::begin_of(std::size_t writer) const {
  if (writer == writers_.size()) return size_;
  const auto begin = core::round_down(size_ / writers_.size() * writer, page);
  const bool inside_a_sector = writer > 0 && writers_[writer] != WriteBy::mapping;
  return begin + (inside_a_sector ? 200 : 0);
}

std::uint64_t WriteJournal::acknowledged() const { return shared_->acknowledged; }
void WriteJournal::stop() { shared_->stopped = true; }
void WriteJournal::start() { shared_->stopped = false; }

void WriteJournal::sync_all_the_time(const boost::filesystem::path& path) const {
  const auto file = open_file(path, O_RDWR);
  while (!shared_->stopped) sync_file(file);
}

/// One writer at work.
class WriteJournal::Writer {
 public:
  Writer(WriteJournal& journal, std::size_t number, const boost::filesystem::path& path,
         TestRandom& random)
      : journal_(journal),
        number_(number),
        by_(journal.writers_[number]),
        under_way_(journal.shared_->under_way[number]),
        begin_(journal.begin_of(number)),
        end_(journal.begin_of(number + 1)),
        random_(random),
        file_(open_file(path, O_RDWR | (by_ == WriteBy::direct ? O_DIRECT : 0))) {
    if (by_ == WriteBy::mapping) {
      mapping_.emplace(file_, journal.size_, PROT_READ | PROT_WRITE, MAP_SHARED);
    }
  }

  void act() {
    const auto choice = random_.between(0, 19);
    const auto range = random_range();
    if (choice < 5) {
      check(range.first, range.second);
    } else if (mapping_) {
      write(range.first, range.second, Kind::store);
    } else if (choice < 8) {
      write(range.first, range.second, Kind::discard);
    } else {
      write(range.first, range.second, Kind::write);
    }
    if (random_.one_in(500)) sync_file(file_);
  }

 private:
  std::pair<std::uint64_t, std::size_t> random_range() {
    const bool is_long = random_.one_in(100);
    const auto unit = random_.one_in(2) ? core::sector_bytes : 1;
    const auto offset = std::max(begin_, random_.between(begin_, end_ - 1) / unit * unit);
    const auto length = random_.between(1, is_long ? longest_write : 6000);
    return {offset, std::min((length + unit - 1) / unit * unit, end_ - offset)};
  }

  void check(std::uint64_t offset, std::size_t length) {
    const auto content = journal_.content().subspan(offset, length);
    const Bytes expected(content.begin(), content.end());
    Bytes found;
    if (mapping_) {
      const auto piece = mapping_->bytes().subspan(offset, length);
      found.assign(piece.begin(), piece.end());
    } else {
      found = read_at(file_, offset, length);
      if (found.size() < length) read_at(file_, offset + found.size(), 1);  // that has the error
    }
    if (found != expected) {
      throw std::runtime_error("a writer reads back: " + difference(found, expected, offset));
    }
  }

  void write(std::uint64_t offset, std::size_t length, Kind kind) {
    bytes_.resize(length);
    const auto seed = random_.between(1, ~std::uint64_t{0});
    fill(bytes_, kind, seed);
    under_way_.offset = offset;
    under_way_.seed = seed;
    under_way_.kind = kind;
    under_way_.length = length;
    auto& count = journal_.shared_->past_count[number_];
    journal_.shared_->past[number_][count++ % most_past] = {offset, length, seed, kind};
    perform(offset, kind);
    std::ranges::copy(bytes_, journal_.content().subspan(offset).begin());
    under_way_.length = 0;
    ++journal_.shared_->acknowledged;
  }

  void perform(std::uint64_t offset, Kind kind) {
    switch (kind) {
      case Kind::write: {
        const auto taken = write_at(file_, offset, bytes_);
        if (taken == bytes_.size()) return;
        // So much is acknowledged; the error comes with the rest.
        std::copy_n(bytes_.begin(), taken, journal_.content().subspan(offset).begin());
        write_at(file_, offset + taken, std::span(bytes_).subspan(taken));
        throw std::runtime_error("a write was cut short for no reason");
      }
      case Kind::discard:
        return allocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes_.size());
      case Kind::store:
        std::ranges::copy(bytes_, mapping_->bytes().subspan(offset).begin());
        return mapping_->sync();
    }
  }

  WriteJournal& journal_;
  std::size_t number_;
  WriteBy by_;
  UnderWay& under_way_;
  std::uint64_t begin_;
  std::uint64_t end_;
  TestRandom& random_;
  core::FileDescriptor file_;
  std::optional<MappedFile> mapping_;
  Bytes bytes_;
};

void WriteJournal::write(std::size_t number, const boost::filesystem::path& path,
                         TestRandom& random) {
  Writer writer(*this, number, path, random);
  while (!shared_->stopped) writer.act();
}

/// Whether a sector may look like this: as acknowledged, changed by any of the writes that were
/// under way. A store can be caught half-way, so of it each byte may be there or not.
bool WriteJournal::may_hold(std::uint64_t sector, std::span<const std::byte> found) const {
  const auto begin = sector * core::sector_bytes;
  const auto old = content().subspan(begin, found.size());
  if (std::ranges::equal(old, found)) return true;
  std::vector<std::size_t> near;
  for (std::size_t i = 0; i < writers_.size(); ++i) {
    const auto& write = shared_->under_way[i];
    const auto end = write.offset + write.length;
    if (write.length > 0 && write.offset < begin + found.size() && end > begin) near.push_back(i);
  }
  for (std::uint64_t chosen = 1; chosen < std::uint64_t{1} << near.size(); ++chosen) {
    Bytes candidate(old.begin(), old.end());
    for (std::size_t k = 0; k < near.size(); ++k) {
      if ((chosen >> k & 1) == 0) continue;
      const auto& write = shared_->under_way[near[k]];
      const auto bytes = write.bytes();
      for (std::size_t i = 0; i < candidate.size(); ++i) {
        const auto at = begin + i;
        if (at < write.offset || at >= write.offset + bytes.size()) continue;
        if (write.kind == Kind::store && found[i] == candidate[i]) continue;
        candidate[i] = bytes[at - write.offset];
      }
    }
    if (std::ranges::equal(candidate, found)) return true;
    // A request ends where it will, also inside of a sector.
    const bool in_requests = std::ranges::any_of(
        near, [&](auto writer) { return shared_->under_way[writer].length > longest_request; });
    const auto rest = std::ranges::mismatch(candidate, found).in2 - found.begin();
    if (in_requests && std::ranges::equal(found.subspan(static_cast<std::size_t>(rest)),
                                          old.subspan(static_cast<std::size_t>(rest)))) {
      return true;
    }
  }
  return false;
}

/// For a person: which of the writes into a sector it may hold instead of the last one.
std::string WriteJournal::past_of(std::uint64_t sector, std::span<const std::byte> found) const {
  const auto begin = sector * core::sector_bytes;
  std::string text;
  for (std::size_t writer = 0; writer < writers_.size(); ++writer) {
    const auto count = shared_->past_count[writer];
    for (auto n = count; n > 0 && n + most_past > count; --n) {
      const auto& write = shared_->past[writer][(n - 1) % most_past];
      if (write.offset > begin || write.offset + write.length < begin + found.size()) continue;
      Bytes bytes(write.length);
      fill(bytes, write.kind, write.seed);
      const bool is_it =
          std::ranges::equal(std::span(bytes).subspan(begin - write.offset, found.size()), found);
      text += fmt::format("\n  write {} of {} by writer {}: {} bytes at {}, kind {}{}", n, count,
                          writer, write.length, write.offset, static_cast<int>(write.kind),
                          is_it ? "; the file holds this" : "");
      if (is_it) return text;
    }
  }
  return text;
}

void WriteJournal::check(const core::FileDescriptor& file) {
  constexpr std::size_t step = std::size_t{1} << 20;
  for (std::uint64_t offset = 0; offset < size_; offset += step) {
    const auto length = std::min<std::uint64_t>(step, size_ - offset);
    const auto piece = read_at(file, offset, length);
    ASSERT_EQ(piece.size(), length);
    for (std::uint64_t at = 0; at < length; at += core::sector_bytes) {
      const auto found =
          std::span(piece).subspan(at, std::min<std::uint64_t>(core::sector_bytes, length - at));
      const auto old = content().subspan(offset + at, found.size());
      ASSERT_TRUE(may_hold((offset + at) / core::sector_bytes, found))
          << "acknowledged, and lost: "
          << difference({found.begin(), found.end()}, {old.begin(), old.end()}, offset + at)
          << past_of((offset + at) / core::sector_bytes, found);
      std::ranges::copy(found, old.begin());
    }
  }
  for (auto& write : shared_->under_way) write.length = 0;
}

Writers::Writers(WriteJournal& journal, const boost::filesystem::path& file, std::uint64_t stream,
                 Syncs syncs)
    : journal_(journal) {
  journal.start();
  for (std::size_t i = 0; i < journal.writers().size(); ++i) {
    workers_.push_back(std::make_unique<Worker>([&journal, i, file, stream] {
      TestRandom random(stream * most_writers + i + 1);
      journal.write(i, file, random);
    }));
  }
  if (syncs == Syncs::all_the_time) {
    workers_.push_back(
        std::make_unique<Worker>([&journal, file] { journal.sync_all_the_time(file); }));
  }
}

void Writers::wait_for_writes(std::uint64_t count) const {
  const auto before = journal_.acknowledged();
  const auto all_ended = [this] {
    return std::ranges::all_of(workers_, [](const auto& w) { return w->watched().has_ended(); });
  };
  // On a slow machine they take as long as they take, if only they go on.
  for (auto i = before + 1; i <= before + count; ++i) {
    ASSERT_TRUE(eventually([&] { return journal_.acknowledged() >= i || all_ended(); }))
        << "no write came to its end for a long time";
  }
}

bool Writers::wait_for_end() const {
  return std::ranges::all_of(workers_, [](const auto& worker) {
    return worker->watched().wait_for_end(std::chrono::seconds(10));
  });
}

void Writers::expect_success() {
  journal_.stop();
  for (const auto& worker : workers_) {
    const auto outcome = worker->wait();
    EXPECT_EQ(outcome.status, 0) << outcome.err;
  }
}

void Writers::expect_end_of_mount() {
  using ::testing::AnyOf;
  using ::testing::HasSubstr;
  for (const auto& worker : workers_) {
    const auto outcome = worker->wait();
    // A store into a mapping has no other way to fail.
    if (outcome.status == 128 + SIGBUS) continue;
    EXPECT_EQ(outcome.status, 1) << outcome.err;
    const auto is = [](int error) { return HasSubstr(std::strerror(error)); };
    EXPECT_THAT(outcome.err, AnyOf(is(ENOTCONN), is(ECONNABORTED), is(EIO), is(ENODEV)));
  }
  journal_.stop();
}

}  // namespace cowfs::tests
