// Locks: among cowfs processes, and with UML, which takes classic locks of the process.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "cowcore/errors.hpp"
#include "cowcore/lock_holder.hpp"
#include "cowcore/posix_storage.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using tests::ForkedProcess;
using tests::message_of;

class Lock : public testing::Test {
 protected:
  Lock() { tests::write_file(path_, "content"); }

  std::unique_ptr<PosixStorage> open(Access access = Access::read_write) {
    return PosixStorage::open(path_, access, FileKinds::regular);
  }

  static std::string refusal(PosixStorage& file, LockKind kind) {
    return message_of<Busy>([&] { file.lock(kind); });
  }

  /// "(pid 123)", as a message names a process.
  static std::string named(const ForkedProcess& process) {
    return "(pid " + std::to_string(process.pid()) + ")";
  }

  tests::TemporaryDirectory directory_;
  boost::filesystem::path path_ = directory_ / "file";
};

TEST_F(Lock, AnExclusiveOneKeepsAllOthersOut) {
  const auto holder = open();
  holder->lock(LockKind::exclusive);
  EXPECT_THAT(refusal(*open(), LockKind::exclusive), HasSubstr("in use"));
  EXPECT_THAT(refusal(*open(Access::read_only), LockKind::shared), HasSubstr("in use"));
}

TEST_F(Lock, SharedOnesGoTogetherAndKeepAnExclusiveOneOut) {
  const auto one = open(Access::read_only);
  const auto other = open(Access::read_only);
  one->lock(LockKind::shared);
  other->lock(LockKind::shared);
  EXPECT_THAT(refusal(*open(), LockKind::exclusive), HasSubstr("in use"));
}

TEST_F(Lock, EndsWithItsStorage) {
  auto holder = open();
  holder->lock(LockKind::exclusive);
  {
    // Closing another descriptor of the file would end a classic lock of the process.
    const auto other = open();
  }
  EXPECT_THAT(refusal(*open(), LockKind::exclusive), HasSubstr("in use"));
  holder.reset();
  EXPECT_NO_THROW(open()->lock(LockKind::exclusive));
}

TEST_F(Lock, AProcessWithAWriteLockKeepsUsOutAndIsNamed) {
  const ForkedProcess uml([&] { return tests::take_process_lock(path_.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  const auto expected = AllOf(StartsWith(path_.string() + ": in use by "), HasSubstr(named(uml)));
  EXPECT_THAT(refusal(*open(), LockKind::exclusive), expected);
  EXPECT_THAT(refusal(*open(Access::read_only), LockKind::shared), expected);
}

TEST_F(Lock, AProcessWithAReadLockLetsReadersIn) {
  const ForkedProcess uml([&] { return tests::take_process_lock(path_.c_str(), F_RDLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THAT(refusal(*open(), LockKind::exclusive), HasSubstr(named(uml)));
  EXPECT_NO_THROW(open(Access::read_only)->lock(LockKind::shared));
}

TEST_F(Lock, OursKeepsAProcessOut) {
  const auto holder = open();
  holder->lock(LockKind::exclusive);
  // The child has inherited the descriptor, but asks with a lock of its own.
  const ForkedProcess writer([&] { return tests::take_process_lock(path_.c_str(), F_WRLCK); });
  EXPECT_FALSE(writer.succeeded());
  const ForkedProcess reader([&] { return tests::take_process_lock(path_.c_str(), F_RDLCK); });
  EXPECT_FALSE(reader.succeeded());
}

TEST_F(Lock, OurSharedOneLetsAReadingProcessIn) {
  const auto holder = open(Access::read_only);
  holder->lock(LockKind::shared);
  const ForkedProcess writer([&] { return tests::take_process_lock(path_.c_str(), F_WRLCK); });
  EXPECT_FALSE(writer.succeeded());
  const ForkedProcess reader([&] { return tests::take_process_lock(path_.c_str(), F_RDLCK); });
  EXPECT_TRUE(reader.succeeded());
}

TEST_F(Lock, AnotherDaemonThatHoldsTheFileIsNamed) {
  std::unique_ptr<PosixStorage> held;
  const ForkedProcess daemon([&] {
    held = open();
    held->lock(LockKind::exclusive);
    return true;
  });
  ASSERT_TRUE(daemon.succeeded());
  const auto message = refusal(*open(), LockKind::exclusive);
  EXPECT_THAT(message, HasSubstr(named(daemon)));
  EXPECT_THAT(message, HasSubstr("cowfs_unit")) << "the name of the program";
}

TEST_F(Lock, LocksOfFlockAreNoneOfOurs) {
  const auto other = open();
  ASSERT_EQ(::flock(other->descriptor(), LOCK_EX), 0);
  EXPECT_NO_THROW(open()->lock(LockKind::exclusive));
}

TEST_F(Lock, CanBeLookedAtWithoutBeingTaken) {
  const auto looking = open(Access::read_only);
  EXPECT_FALSE(is_locked_for_writing(looking->descriptor()));
  {
    const auto reader = open(Access::read_only);
    reader->lock(LockKind::shared);
    EXPECT_FALSE(is_locked_for_writing(looking->descriptor()));
  }
  const auto writer = open();
  writer->lock(LockKind::exclusive);
  EXPECT_TRUE(is_locked_for_writing(looking->descriptor()));
}

}  // namespace
}  // namespace cowfs::core
