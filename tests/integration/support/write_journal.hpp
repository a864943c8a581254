// Processes that write a merged file, and a journal of what was acknowledged to them.
//
// The journal lies in shared memory: it holds what the file must contain by all writes that have
// returned, and for each writer the one write that has not. A writer notes a write before it begins
// and settles it when it has returned, so whatever becomes of the daemon, the journal knows what
// must be there, and what may.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/process.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

/// How a writer gets at the file.
enum class WriteBy {
  plain,
  direct,   ///< O_DIRECT
  mapping,  ///< stores in a shared mapping, then msync; at most one, and the last
};

/// Plain and direct writers whose parts of the file meet inside of sectors, and a mapping.
[[nodiscard]] std::vector<WriteBy> writers_of_every_kind();

/// For one process that starts the writers and checks the file, without threads of its own.
class WriteJournal {
 public:
  /// `content` is the file's as it is; its size is at least a few pages for each writer.
  WriteJournal(const Bytes& content, std::vector<WriteBy> writers);
  WriteJournal(const WriteJournal&) = delete;
  WriteJournal& operator=(const WriteJournal&) = delete;
  ~WriteJournal();

  [[nodiscard]] const std::vector<WriteBy>& writers() const { return writers_; }

  /// Writes (whole and partial sectors, short and long, discards too) at random places of the
  /// writer's own part of the file, and reads back what it wrote, until the journal is stopped.
  /// Throws std::system_error when I/O fails, std::runtime_error when it reads what it must not.
  void write(std::size_t writer, const boost::filesystem::path& file, TestRandom& random);

  /// Calls fsync all the time, until the journal is stopped.
  void sync_all_the_time(const boost::filesystem::path& file) const;

  /// How many writes were acknowledged, by all writers together.
  [[nodiscard]] std::uint64_t acknowledged() const;

  void stop();
  /// Goes on after stop, when all writers have ended.
  void start();

  /// Compares the file with the journal when no writer runs: each sector has its last acknowledged
  /// content, or that of a write that was under way. By GoogleTest expectations. From then on the
  /// journal holds what the file was found to hold.
  void check(const core::FileDescriptor& file);

 private:
  struct Shared;
  struct UnderWay;
  struct Past;
  class Writer;

  [[nodiscard]] std::span<std::byte> content() const;
  [[nodiscard]] std::uint64_t begin_of(std::size_t writer) const;
  [[nodiscard]] bool may_hold(std::uint64_t sector, std::span<const std::byte> found) const;

  [[nodiscard]] std::string past_of(std::uint64_t sector, std::span<const std::byte> found) const;

  std::vector<WriteBy> writers_;
  std::size_t size_;
  Shared* shared_;
};

/// The writers of a journal at work, each in a process of its own.
class Writers {
 public:
  enum class Syncs { rarely, all_the_time };

  /// `stream` tells their random numbers from those of others.
  Writers(WriteJournal& journal, const boost::filesystem::path& file, std::uint64_t stream,
          Syncs syncs = Syncs::rarely);

  /// Waits until so many more writes are acknowledged.
  void wait_for_writes(std::uint64_t count) const;

  /// Stops them; expects all to end well, without an error.
  void expect_success();

  /// Waits for all to end by themselves, but not for long.
  [[nodiscard]] bool wait_for_end() const;

  /// Expects all to end by themselves, with an error that says that the mount is gone.
  void expect_end_of_mount();

 private:
  WriteJournal& journal_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace cowfs::tests
