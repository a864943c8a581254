// Touching pages of mapped files: they are there afterwards, and what can't be had ends nothing.

#include "fuse/presence.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <thread>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::fuse {
namespace {

constexpr std::size_t length = std::size_t{1} << 20;

class Presence : public ::testing::Test {
 protected:
  Presence()
      : file_(::open((directory_ / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        data_(map()) {
    prepare_to_touch();
  }
  ~Presence() override { ::munmap(data_, length); }

  void truncate(std::size_t size) { ASSERT_EQ(::ftruncate(file_.get(), off_t(size)), 0); }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* map() {
    truncate(length);
    return ::mmap(nullptr, length, PROT_READ, MAP_SHARED, file_.get(), 0);
  }

  tests::TemporaryDirectory directory_;
  core::FileDescriptor file_;
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

TEST_F(Presence, TouchedPagesAreThere) {
  const auto size = length / 2;
  const std::vector<iovec> pieces{{data() + 5000, size - 5000}, {data(), 5000}};
  touch_pages(pieces);
  EXPECT_EQ(missing_pages(data(), size), 0);
}

TEST_F(Presence, WhatIsGoneFromTheFileEndsNothing) {
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

TEST_F(Presence, AnythingElseThatIsGoneStillEndsTheProcess) {
  truncate(0);
  EXPECT_EXIT(
      {
        touch_pages({});
        read_pages(data(), 4096);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace cowfs::fuse
