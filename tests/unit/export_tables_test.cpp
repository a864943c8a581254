// Node ids and handles: what was given out is found, and nothing else is.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <map>
#include <thread>

#include "hostfs/node_table.hpp"
#include "hostfs/open_files.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {
namespace {

using namespace hostfs;

core::FileDescriptor some_descriptor() {
  return core::FileDescriptor(::open("/", O_PATH | O_CLOEXEC));
}

NodeTable make_table(std::uint32_t limit) { return {some_descriptor(), {1, 1}, limit}; }

TEST(Nodes, AreOneForAFile) {
  auto table = make_table(10);
  const auto first = table.add(some_descriptor(), {1, 2}, S_IFREG);
  EXPECT_EQ(table.add(some_descriptor(), {1, 2}, S_IFREG), first);
  EXPECT_NE(table.add(some_descriptor(), {2, 2}, S_IFREG), first);
  EXPECT_EQ(table.size(), 2U);
  EXPECT_EQ(table.add(some_descriptor(), {1, 1}, S_IFDIR), 1U);  // the root
  EXPECT_FALSE(table.forget(first, 1));
  EXPECT_TRUE(table.forget(first, 1));
  EXPECT_EQ(error_of([&] { (void)table.pin(first); }), ESTALE);
}

TEST(Nodes, ThatAreGoneOrMadeUpAreNone) {
  auto table = make_table(10);
  const auto old = table.add(some_descriptor(), {1, 2}, S_IFREG);
  table.forget(old, 1);
  const auto reused = table.add(some_descriptor(), {1, 3}, S_IFREG);
  EXPECT_EQ(static_cast<std::uint32_t>(reused), static_cast<std::uint32_t>(old));
  for (const std::uint64_t id :
       {old, std::uint64_t{0}, std::uint64_t{2}, reused + 1, std::uint64_t{1} << 32,
        std::uint64_t{UINT64_MAX}, std::uint64_t{0x7fff12345678}}) {
    EXPECT_EQ(error_of([&] { (void)table.pin(id); }), ESTALE) << id;
    EXPECT_FALSE(table.forget(id, 1)) << id;
  }
  EXPECT_EQ(table.pin(reused)->key.inode, 3U);
}

TEST(Nodes, AreKeptWhileTheyAreUsedAndTheRootForGood) {
  auto table = make_table(10);
  const auto id = table.add(some_descriptor(), {1, 2}, S_IFREG);
  {
    const auto pin = table.pin(id);
    EXPECT_TRUE(table.forget(id, 1000));
    EXPECT_GE(::fcntl(pin->fd.get(), F_GETFD), 0);
  }
  EXPECT_EQ(table.size(), 0U);
  EXPECT_FALSE(table.forget(1, UINT64_MAX));
  EXPECT_EQ(table.pin(1)->type, S_IFDIR);
}

TEST(Nodes, HaveALimit) {
  auto table = make_table(3);
  for (std::uint64_t inode = 2; inode < 5; ++inode) {
    (void)table.add(some_descriptor(), {1, inode}, S_IFREG);
  }
  EXPECT_EQ(error_of([&] { (void)table.add(some_descriptor(), {1, 9}, S_IFREG); }), ENFILE);
  EXPECT_NE(table.add(some_descriptor(), {1, 2}, S_IFREG), 0U);  // that one is known
}

TEST(Nodes, AreFoundAmongManyThatComeAndGo) {
  TestRandom random(1);
  auto table = make_table(1 << 20);
  std::map<std::uint64_t, std::uint64_t> ids;  // by inode
  for (int i = 0; i < 20000; ++i) {
    const auto inode = 2 + random.between(0, 2999);
    const auto known = ids.find(inode);
    if (known == ids.end()) {
      ids[inode] = table.add(core::FileDescriptor(), {random.between(0, 1), inode}, S_IFREG);
      const auto key = table.pin(ids[inode])->key;
      EXPECT_EQ(key.inode, inode);
    } else if (random.one_in(2)) {
      const auto key = table.pin(known->second)->key;
      EXPECT_EQ(table.add_known(key), known->second);
      table.forget(known->second, 1);
    } else {
      const auto key = table.pin(known->second)->key;
      EXPECT_TRUE(table.forget(known->second, 1));
      EXPECT_FALSE(table.add_known(key));
      ids.erase(known);
    }
  }
  EXPECT_EQ(table.size(), ids.size());
}

TEST(Nodes, CanBeUsedByManyThreads) {
  auto table = make_table(1000);
  const auto work = [&](std::uint64_t seed) {
    TestRandom random(seed);
    for (int i = 0; i < 5000; ++i) {
      const auto id = table.add(some_descriptor(), {1, 2 + random.between(0, 19)}, S_IFREG);
      EXPECT_GE(::fcntl(table.pin(id)->fd.get(), F_GETFD), 0);
      table.forget(id, 1);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t i = 0; i < 4; ++i) threads.emplace_back(work, i);
  }
  EXPECT_EQ(table.size(), 0U);
}

TEST(Handles, GoWithTheirNodeAndKind) {
  OpenFiles files(2);
  const auto handle = files.add({some_descriptor(), 7, false, 0, false});
  EXPECT_GE(files.pin(handle, 7).fd(), 0);
  EXPECT_EQ(error_of([&] { (void)files.pin(handle, 8); }), EBADF);
  EXPECT_EQ(error_of([&] { (void)files.pin(handle, 7, true); }), EBADF);
  EXPECT_EQ(error_of([&] { (void)files.pin(handle + 1, 7); }), EBADF);
  EXPECT_EQ(error_of([&] { (void)files.pin(0, 7); }), EBADF);
  {
    const auto pin = files.pin(handle, 7);
    EXPECT_TRUE(files.release(handle));
    EXPECT_FALSE(files.release(handle));
    EXPECT_GE(::fcntl(pin.fd(), F_GETFD), 0);
  }
  EXPECT_EQ(error_of([&] { (void)files.pin(handle, 7); }), EBADF);
  EXPECT_EQ(files.size(), 0U);
}

TEST(Handles, HaveALimit) {
  OpenFiles files(1);
  (void)files.add({some_descriptor(), 7, false, 0, false});
  EXPECT_EQ(error_of([&] { files.require_room(); }), ENFILE);
  EXPECT_EQ(error_of([&] { (void)files.add({some_descriptor(), 7, false, 0, false}); }), ENFILE);
}

}  // namespace
}  // namespace cowfs::tests
