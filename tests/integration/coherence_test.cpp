// Plain opens, direct opens and mappings of one merged file, in several processes, always see each
// other's writes.
//
// Processes work in pairs. One writes a piece of the file and tells the other, by a pipe, when the
// write has returned; the other reads it, in its own way, and must find just that; then it is its
// turn to write. Meanwhile more processes keep bringing the same pages into the page cache: a page
// that was read just before a direct write took effect, and is not dropped after it, stays stale.

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/integration/support/process.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

/// A way to get at the file.
enum class By { plain, direct, direct_async, plain_mapping, direct_mapping, fresh_plain_open };

std::string name_of(By by) {
  switch (by) {
    case By::plain:
      return "a plain handle";
    case By::direct:
      return "a direct handle";
    case By::direct_async:
      return "asynchronous I/O on a direct handle";
    case By::plain_mapping:
      return "a mapping of a plain handle";
    case By::direct_mapping:
      return "a mapping of a direct handle";
    case By::fresh_plain_open:
      return "a plain handle opened just now";
  }
  return "nothing";
}

/// Asynchronous writes, as QEMU makes them. The kernel does less by itself for these: when a direct
/// write has been handed over, not when it is done, it drops what was cached.
class AsynchronousWriter {
 public:
  AsynchronousWriter() {
    if (::syscall(SYS_io_setup, 1, &context_) != 0) fail("io_setup");
  }
  AsynchronousWriter(const AsynchronousWriter&) = delete;
  AsynchronousWriter& operator=(const AsynchronousWriter&) = delete;
  ~AsynchronousWriter() { ::syscall(SYS_io_destroy, context_); }

  /// Returns how much was written, when it is done.
  std::size_t write(const core::FileDescriptor& file, std::uint64_t offset,
                    std::span<const std::byte> bytes) {
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_PWRITE;
    request.aio_fildes = static_cast<std::uint32_t>(file.get());
    request.aio_buf = reinterpret_cast<std::uint64_t>(bytes.data());
    request.aio_nbytes = bytes.size();
    request.aio_offset = static_cast<std::int64_t>(offset);
    iocb* list = &request;
    if (::syscall(SYS_io_submit, context_, 1, &list) != 1) fail("io_submit");
    io_event done{};
    if (::syscall(SYS_io_getevents, context_, 1, 1, &done, nullptr) != 1) fail("io_getevents");
    if (done.res < 0) {
      throw std::system_error(static_cast<int>(-done.res), std::generic_category(), "write");
    }
    return static_cast<std::size_t>(done.res);
  }

 private:
  [[noreturn]] static void fail(const char* action) {
    throw std::system_error(errno, std::generic_category(), action);
  }

  aio_context_t context_ = 0;
};

/// One process's handles, opened when they are first needed: a plain handle that nobody uses would
/// change how the others are served.
class Handles {
 public:
  Handles(fs::path path, std::size_t size) : path_(std::move(path)), size_(size) {}

  Bytes read(By by, std::uint64_t offset, std::size_t length) {
    if (const auto* mapping = mapping_for(by)) {
      const auto piece = mapping->bytes().subspan(offset, length);
      return {piece.begin(), piece.end()};
    }
    if (by == By::fresh_plain_open) return read_at(open_file(path_, O_RDONLY), offset, length);
    return read_at(handle_for(by), offset, length);
  }

  void write(By by, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (const auto* mapping = mapping_for(by)) {
      std::ranges::copy(bytes, mapping->bytes().begin() + static_cast<std::ptrdiff_t>(offset));
      return;
    }
    const auto taken =
        by == By::fresh_plain_open ? write_at(open_file(path_, O_WRONLY), offset, bytes)
        : by == By::direct_async   ? asynchronous_writer_.write(handle_for(by), offset, bytes)
                                   : write_at(handle_for(by), offset, bytes);
    if (taken != bytes.size()) throw std::runtime_error("short write");
  }

 private:
  const core::FileDescriptor& handle_for(By by) {
    const bool direct = by != By::plain && by != By::plain_mapping;
    auto& handle = direct ? direct_ : plain_;
    if (!handle) handle = open_file(path_, O_RDWR | (direct ? O_DIRECT : 0));
    return handle;
  }

  const MappedFile* mapping_for(By by) {
    if (by != By::plain_mapping && by != By::direct_mapping) return nullptr;
    auto& mapping = by == By::plain_mapping ? plain_mapping_ : direct_mapping_;
    if (!mapping) mapping.emplace(handle_for(by), size_, PROT_READ | PROT_WRITE, MAP_SHARED);
    return &*mapping;
  }

  fs::path path_;
  std::size_t size_;
  core::FileDescriptor plain_;
  core::FileDescriptor direct_;
  std::optional<MappedFile> plain_mapping_;
  std::optional<MappedFile> direct_mapping_;
  AsynchronousWriter asynchronous_writer_;
};

struct Contest {
  std::vector<By> writers;
  std::vector<By> checkers;
  std::vector<By> disturbers;  ///< one process each, which reads all the time
  std::size_t cell = 0;        ///< the file is dealt out to the pairs in cells of this many bytes
  std::size_t image = 0;       ///< bytes
  int pairs = 0;
  std::chrono::seconds duration{0};
  int rounds_at_least = 200;  ///< of each pair; two writes and two checks each
};

/// What one of a pair has written. The bytes follow from `seed`.
struct Claim {
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  std::uint32_t seed = 0;
  By by = By::plain;
};

void fill(Bytes& bytes, const Claim& claim) {
  bytes.resize(claim.length);
  std::uint64_t state = claim.seed * 0x9e3779b97f4a7c15U + 1;
  for (auto& byte : bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<std::byte>(state);
  }
}

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category());
    from = core::FileDescriptor(ends[0]);
    to = core::FileDescriptor(ends[1]);
  }
  core::FileDescriptor from;
  core::FileDescriptor to;
};

/// One of a pair.
class Contestant {
 public:
  Contestant(const Contest& contest, const fs::path& path, int pair, std::uint64_t stream)
      : contest_(contest), handles_(path, contest.image), random_(stream), pair_(pair) {}

  Claim write() {
    const auto cells = contest_.image / contest_.cell;
    const auto pairs = static_cast<std::uint64_t>(contest_.pairs);
    const auto cell =
        random_.between(0, cells / pairs - 1) * pairs + static_cast<std::uint64_t>(pair_);
    const auto begin = random_.one_in(2) ? 0 : random_.between(0, contest_.cell - 1);
    Claim claim;
    claim.offset = cell * contest_.cell + begin;
    claim.length = static_cast<std::uint32_t>(random_.between(1, contest_.cell - begin));
    claim.seed = static_cast<std::uint32_t>(random_.between(1, 1U << 30));
    claim.by = any_of(contest_.writers);
    fill(bytes_, claim);
    handles_.write(claim.by, claim.offset, bytes_);
    return claim;
  }

  void check(const Claim& claim) {
    const auto by = any_of(contest_.checkers);
    fill(bytes_, claim);
    const auto found = handles_.read(by, claim.offset, claim.length);
    if (found == bytes_) return;
    throw std::runtime_error(fmt::format("{} bytes at {} were written by {}; {} shows {}",
                                         claim.length, claim.offset, name_of(claim.by), name_of(by),
                                         difference(found, bytes_, claim.offset)));
  }

 private:
  By any_of(const std::vector<By>& ways) { return ways[random_.between(0, ways.size() - 1)]; }

  const Contest& contest_;
  Handles handles_;
  TestRandom random_;
  int pair_;
  Bytes bytes_;
};

/// False when the other end is gone.
bool send(const Pipe& pipe, const Claim& claim) {
  return ::write(pipe.to.get(), &claim, sizeof claim) == sizeof claim;
}

bool receive(const Pipe& pipe, Claim& claim) {
  return ::read(pipe.from.get(), &claim, sizeof claim) == sizeof claim;
}

void lead(Contestant& self, const Contest& contest, const Pipe& out, const Pipe& in) {
  const auto end = std::chrono::steady_clock::now() + contest.duration;
  Claim claim;
  for (int i = 0; i < contest.rounds_at_least || std::chrono::steady_clock::now() < end; ++i) {
    if (!send(out, self.write()) || !receive(in, claim)) return;
    self.check(claim);
  }
}

void follow(Contestant& self, const Pipe& out, const Pipe& in) {
  Claim claim;
  while (receive(in, claim)) {
    self.check(claim);
    if (!send(out, self.write())) return;
  }
}

void disturb(const Contest& contest, const fs::path& path, By by, std::uint64_t stream) {
  Handles handles(path, contest.image);
  TestRandom random(stream);
  for (;;) {
    const auto offset = random.between(0, contest.image - 1);
    const auto length = std::min<std::uint64_t>(random.between(1, 16384), contest.image - offset);
    if (handles.read(by, offset, length).size() != length) throw std::runtime_error("short read");
  }
}

class Coherence : public MountTest {
 protected:
  void hold(const Contest& contest, const std::vector<std::string>& options = {}) {
    const auto files = make_files(contest.image);
    const auto mounted = mount_image(files.cow.string(), point(), options);
    ::signal(SIGPIPE, SIG_IGN);
    std::vector<std::unique_ptr<Worker>> disturbers;
    std::uint64_t stream = 1;
    for (const auto by : contest.disturbers) {
      const auto its_stream = ++stream;
      disturbers.push_back(std::make_unique<Worker>(
          [&, by, its_stream] { disturb(contest, mounted.file(), by, its_stream); }));
    }
    std::vector<std::unique_ptr<Worker>> contestants;
    for (int pair = 0; pair < contest.pairs; ++pair) {
      Pipe there;
      Pipe back;
      const auto its_stream = stream += 2;
      contestants.push_back(std::make_unique<Worker>([&] {
        there.from = {};
        back.to = {};
        Contestant self(contest, mounted.file(), pair, its_stream);
        lead(self, contest, there, back);
      }));
      contestants.push_back(std::make_unique<Worker>([&] {
        there.to = {};
        back.from = {};
        Contestant self(contest, mounted.file(), pair, its_stream + 1);
        follow(self, back, there);
      }));
    }
    for (const auto& contestant : contestants) {
      const auto outcome = contestant->wait();
      EXPECT_EQ(outcome.status, 0) << outcome.err;
    }
    for (const auto& disturber : disturbers) {
      EXPECT_FALSE(disturber->watched().has_ended()) << disturber->wait().err;
    }
  }
};

TEST_F(Coherence, PlainAndDirectHandlesAndMappingsSeeEachOthersWrites) {
  // Cells that are no round number share their pages, and even sectors, with other pairs' cells.
  hold({.writers = {By::plain, By::direct, By::direct_async},
        .checkers = {By::plain, By::direct, By::plain_mapping},
        .disturbers = {By::plain, By::plain_mapping},
        .cell = 1391,
        .image = 60'000,
        .pairs = 2,
        .duration = std::chrono::seconds(6)});
}

TEST_F(Coherence, StoresInAMappingAreSeenAndSeeTheOthersWrites) {
  // A store makes a whole page dirty, so here each page belongs to one pair.
  hold({.writers = {By::plain, By::direct, By::direct_async, By::plain_mapping},
        .checkers = {By::plain, By::direct, By::plain_mapping},
        .disturbers = {By::plain, By::plain_mapping},
        .cell = 8192,
        .image = 12 * 8192,
        .pairs = 2,
        .duration = std::chrono::seconds(3)});
}

TEST_F(Coherence, MappingsOfDirectHandlesSeeDirectWrites) {
  hold({.writers = {By::direct, By::direct_async},
        .checkers = {By::direct, By::direct_mapping},
        .disturbers = {By::direct_mapping, By::direct_mapping},
        .cell = 1391,
        .image = 60'000,
        .pairs = 2,
        .duration = std::chrono::seconds(4)});
}

TEST_F(Coherence, APlainHandleThatIsOpenForOneReadOnlySeesDirectWrites) {
  hold({.writers = {By::direct, By::direct_async},
        .checkers = {By::fresh_plain_open},
        // Only one: with more, hardly ever none of them has it open when a write ends.
        .disturbers = {By::fresh_plain_open},
        .cell = 700'000,
        .image = 1'400'000,
        .pairs = 1,
        .duration = std::chrono::seconds(6)});
}

TEST_F(Coherence, HoldsInASmallWindowServedByOneThread) {
  hold({.writers = {By::plain, By::direct, By::direct_async},
        .checkers = {By::plain, By::direct, By::plain_mapping},
        .disturbers = {By::plain, By::plain},
        .cell = 70'001,
        .image = 3'000'000,
        .pairs = 2,
        .duration = std::chrono::seconds(3)},
       {"-o", "cache=window:1M,threads=1"});
}

}  // namespace
}  // namespace cowfs::tests
