// Touching pages of mapped files: they are there afterwards, and what can't be had ends nothing.

#include "cowcore/guarded_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <thread>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

constexpr std::size_t length = std::size_t{1} << 20;

class GuardedMemory : public ::testing::Test {
 protected:
  GuardedMemory()
      : file_(::open((directory_ / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        data_(map()) {
    guard_mapped_memory();
  }
  ~GuardedMemory() override { ::munmap(data_, length); }

  void write(std::size_t at, std::byte byte) {
    ASSERT_EQ(::pwrite(file_.get(), &byte, 1, off_t(at)), 1);
  }
  void truncate(std::size_t size) { ASSERT_EQ(::ftruncate(file_.get(), off_t(size)), 0); }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* map() {
    truncate(length);
    return ::mmap(nullptr, length, PROT_READ, MAP_SHARED, file_.get(), 0);
  }

  tests::TemporaryDirectory directory_;
  FileDescriptor file_;
  void* data_;
};

long faults() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

void read_pages(const std::byte* data, std::size_t size) {
  for (std::size_t at = 0; at < size; at += 4096) {
    static_cast<void>(*static_cast<const volatile std::byte*>(data + at));
  }
}

/// How many of these pages the kernel had to bring in for this process when they were read.
long missing_pages(const std::byte* data, std::size_t size) {
  const auto before = faults();
  read_pages(data, size);
  return faults() - before;
}

TEST_F(GuardedMemory, TouchedPagesAreThere) {
  const auto size = length / 2;
  const std::vector<iovec> pieces{{data() + 5000, size - 5000}, {data(), 5000}};
  touch_pages(pieces);
  EXPECT_EQ(missing_pages(data(), size), 0);
}

TEST_F(GuardedMemory, WhatIsGoneFromTheFileEndsNothing) {
  truncate(8192);
  const std::vector<iovec> pieces{{data(), length}};
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) touch_pages(pieces);
    });
  }
  threads.clear();
  truncate(length);
  touch_pages(pieces);
  EXPECT_EQ(missing_pages(data(), length), 0);
}

TEST_F(GuardedMemory, WhatIsThereIsTold) {
  const std::vector<iovec> pieces{{data(), length}};
  EXPECT_TRUE(touch_pages(pieces));
  truncate(length / 2);
  EXPECT_FALSE(touch_pages(pieces));
}

TEST_F(GuardedMemory, CopiesFromWhatIsMapped) {
  const std::byte mark{0x5a};
  write(8191, mark);
  std::vector<std::byte> to(10000, std::byte{1});
  const std::vector<GuardedCopy> copies{{&to[0], data() + 8000, 192}, {&to[500], data(), 9500}};
  ASSERT_TRUE(copy_guarded(copies));
  std::vector<std::byte> expected(10000);
  expected[191] = mark;
  std::fill(expected.begin() + 192, expected.begin() + 500, std::byte{1});
  expected[500 + 8191] = mark;
  EXPECT_EQ(to, expected);
}

TEST_F(GuardedMemory, ACopyOfWhatIsGoneIsRefused) {
  std::vector<std::byte> to(length);
  const std::vector<GuardedCopy> copies{{to.data(), data(), length}};
  EXPECT_TRUE(copy_guarded(copies));
  truncate(length - 4096);
  EXPECT_FALSE(copy_guarded(copies));
  truncate(length);
  EXPECT_TRUE(copy_guarded(copies)) << "the one before has left nothing behind";
}

TEST_F(GuardedMemory, AnythingElseThatIsGoneStillEndsTheProcess) {
  truncate(0);
  EXPECT_EXIT(
      {
        touch_pages({});
        read_pages(data(), 4096);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace cowfs::core
