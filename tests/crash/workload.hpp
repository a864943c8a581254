// Concurrent writers on a COW, and the record of what they did.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_layout.hpp"
#include "cowcore/storage.hpp"
#include "tests/crash/disk.hpp"
#include "tests/crash/history.hpp"
#include "tests/crash/subject.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {

/// How the writers write.
struct Habits {
  unsigned writers = 3;
  unsigned actions = 24;  ///< of each writer
  unsigned flushes = 6;   ///< of a thread that does nothing else
  bool parts_of_sectors = true;
};

/// A backing and a COW, before and while they are written. Backing, the COW's initial data, and
/// what lies unused in its data area, are tagged.
class Workload {
 public:
  enum class Cow {
    existing,  ///< has sectors in it, and garbage where no bit is set
    created,   ///< made by write_empty_cow just now
  };

  /// `stream` picks the random numbers.
  Workload(const Shape& shape, Cow cow, std::uint64_t stream);

  [[nodiscard]] const core::CowHeader& header() const { return header_; }
  [[nodiscard]] const core::CowLayout& layout() const { return layout_; }
  [[nodiscard]] TestRandom& random() { return random_; }
  [[nodiscard]] Disk& disk() { return disk_; }
  [[nodiscard]] std::unique_ptr<core::Storage> open_backing() const { return backing_->open(); }
  [[nodiscard]] std::unique_ptr<core::CowImage> open_image(
      const std::shared_ptr<Death>& death, std::unique_ptr<core::PendingStore> pending = nullptr);

  /// Lets the writers loose; returns when all are through, or dead.
  void run(Subject& subject, const Habits& habits);

  /// Does something that makes all acknowledged writes durable.
  void flush_by(const std::function<void()>& call);

  /// Points the COW at another place of its backing, as open_cow does.
  void relocate();

  // For the checker.
  [[nodiscard]] History& history() { return history_; }
  [[nodiscard]] const std::vector<std::byte>& initial_file() const { return initial_file_; }
  [[nodiscard]] const std::vector<std::byte>& backing_bytes() const { return backing_bytes_; }
  [[nodiscard]] const std::set<std::string>& backing_paths() const { return backing_paths_; }
  /// The first operation of the log with which the file has its name.
  [[nodiscard]] std::size_t first_operation() const { return first_operation_; }

 private:
  void make_backing();
  void make_existing_cow();
  void make_new_cow();
  void write_loop(Subject& subject, const Habits& habits, std::uint64_t stream);
  void write_once(Subject& subject, const Habits& habits, TestRandom& random);
  [[nodiscard]] core::SectorNumber pick_sector(TestRandom& random) const;

  TestRandom random_;
  std::uint64_t stream_;
  core::CowHeader header_;
  core::CowLayout layout_;
  std::shared_ptr<MemoryFile> backing_ = MemoryFile::make("backing", 512);
  std::vector<std::byte> backing_bytes_;
  std::vector<std::byte> initial_file_;
  std::vector<std::uint64_t> initial_words_;
  std::set<std::string> backing_paths_;
  std::size_t first_operation_ = 0;
  unsigned runs_ = 0;
  Disk disk_;
  History history_;
};

}  // namespace cowfs::tests
