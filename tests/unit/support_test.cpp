// The storages that tests stand on keep the contract of core::Storage themselves.

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

#include "cowcore/storage.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/faulty_storage.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {
namespace {

using Bytes = std::vector<std::byte>;

Bytes read(const core::Storage& file, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, std::byte{0xa5});
  bytes.resize(file.read(offset, bytes));
  return bytes;
}

void random_operation(core::Storage& file, Bytes& model, TestRandom& random) {
  const auto limit = random.between(1, 40000);
  const auto offset = random.between(0, limit);
  const auto length = random.between(0, limit - offset);
  switch (random.between(0, 3)) {
    case 0: {
      const auto bytes = random.bytes(length);
      file.write(offset, bytes);
      if (length > 0 && model.size() < offset + length) model.resize(offset + length);
      std::ranges::copy(
          bytes, model.begin() + static_cast<std::ptrdiff_t>(std::min(offset, model.size())));
      break;
    }
    case 1:
      file.punch(offset, length);
      for (auto i = offset; i < std::min<std::uint64_t>(offset + length, model.size()); ++i) {
        model[i] = std::byte{};
      }
      break;
    case 2:
      file.resize(limit);
      model.resize(limit);
      break;
    default: {
      const auto found = read(file, offset, length);
      const auto begin = std::min<std::uint64_t>(offset, model.size());
      const auto end = std::min<std::uint64_t>(offset + length, model.size());
      ASSERT_EQ(found, Bytes(model.begin() + static_cast<std::ptrdiff_t>(begin),
                             model.begin() + static_cast<std::ptrdiff_t>(end)));
      break;
    }
  }
}

void check_holes(const core::Storage& file, const Bytes& model) {
  for (std::uint64_t at = 0; at < model.size();) {
    const auto data = file.next_data(at).value_or(model.size());
    ASSERT_GE(data, at);
    for (; at < data; ++at) ASSERT_EQ(model[at], std::byte{}) << at;
    if (data == model.size()) break;
    at = file.next_hole(data);
    ASSERT_GT(at, data);
    ASSERT_LE(at, model.size());
  }
  ASSERT_EQ(file.next_data(model.size()), std::nullopt);
}

void check_against_model(core::Storage& file) {
  SCOPED_TRACE(seed_hint());
  TestRandom random;
  Bytes model;
  for (int step = 0; step < 2000; ++step) {
    ASSERT_NO_FATAL_FAILURE(random_operation(file, model, random)) << "step " << step;
    ASSERT_EQ(file.status().size, model.size());
    if (step % 50 == 0) {
      ASSERT_NO_FATAL_FAILURE(check_holes(file, model)) << "step " << step;
    }
  }
  EXPECT_EQ(read(file, 0, model.size() + 100), model);
}

TEST(StorageModel, MemoryFile) { check_against_model(*MemoryFile::make("file")->open()); }

TEST(StorageModel, MemoryFileWithBlocksOfASector) {
  check_against_model(*MemoryFile::make("file", 512)->open());
}

TEST(StorageModel, MappableMemory) { check_against_model(*open_mappable_memory("file")); }

TEST(StorageModel, FileOfTheOperatingSystem) {
  const TemporaryDirectory directory;
  check_against_model(*make_file(directory / "file"));
}

TEST(MemoryFile, IsSparse) {
  const auto file = MemoryFile::make("file");
  const auto storage = file->open();
  storage->resize(std::uint64_t{1} << 40);
  storage->write(std::uint64_t{1} << 39, Bytes(1, std::byte{1}));
  EXPECT_EQ(storage->status().allocated, 4096U);
  EXPECT_EQ(storage->next_data(0), std::uint64_t{1} << 39);
}

TEST(MemoryFile, OutlivesItsStorages) {
  const auto file = MemoryFile::make("file");
  file->open()->write(0, Bytes(3, std::byte{7}));
  EXPECT_EQ(file->content(), Bytes(3, std::byte{7}));
  const auto copy = file->copy();
  file->open()->write(0, Bytes(3, std::byte{8}));
  EXPECT_EQ(copy->content(), Bytes(3, std::byte{7}));
}

TEST(FaultyStorage, FailsTheNthOperationOnce) {
  const auto plan = std::make_shared<FaultPlan>();
  FaultyStorage file(MemoryFile::make("file")->open(), plan);
  plan->add({.operation = Operation::sync, .nth = 2, .error = EIO});
  EXPECT_EQ(error_of([&] { file.sync(); }), 0);
  EXPECT_EQ(error_of([&] { file.write(0, Bytes(1)); }), 0);
  EXPECT_EQ(error_of([&] { file.sync(); }), EIO);
  EXPECT_EQ(error_of([&] { file.sync(); }), 0);
  EXPECT_EQ(plan->failures(), 1U);
}

TEST(FaultyStorage, FailsLastinglyUntilHealed) {
  const auto plan = std::make_shared<FaultPlan>();
  FaultyStorage file(MemoryFile::make("file")->open(), plan);
  plan->add({.error = ENOSPC, .lasting = true});
  EXPECT_EQ(error_of([&] { file.write(0, Bytes(1)); }), ENOSPC);
  EXPECT_EQ(error_of([&] { file.sync(); }), ENOSPC);
  plan->heal();
  EXPECT_EQ(error_of([&] { file.write(0, Bytes(1)); }), 0);
}

TEST(FaultyStorage, WritesAPartBeforeItFails) {
  const auto memory = MemoryFile::make("file");
  const auto plan = std::make_shared<FaultPlan>();
  FaultyStorage file(memory->open(), plan);
  plan->add({.operation = Operation::write, .error = ENOSPC, .bytes_before = 3});
  EXPECT_EQ(error_of([&] { file.write(0, Bytes(10, std::byte{9})); }), ENOSPC);
  EXPECT_EQ(memory->content(), Bytes(3, std::byte{9}));
}

TEST(RecordingStorage, LogsChangesWithTheirBytesInOrder) {
  const auto log = std::make_shared<OperationLog>();
  RecordingStorage file(MemoryFile::make("file")->open(), log);
  file.write(4096, Bytes(2, std::byte{5}));
  file.sync();
  file.punch(0, 512);
  const auto found = log->operations();
  EXPECT_EQ(describe(found), "write 4096+2\nsync\npunch 0+512\n");
  EXPECT_EQ(found.at(0).bytes, Bytes(2, std::byte{5}));
  EXPECT_LT(found.at(0).ended, found.at(1).began);
  EXPECT_LT(found.at(1).ended, found.at(2).began);
}

}  // namespace
}  // namespace cowfs::tests
