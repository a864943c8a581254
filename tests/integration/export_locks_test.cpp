// Locks taken through an export hold against everybody who uses the directory.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <csignal>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

struct flock whole(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

int lock_error(const core::FileDescriptor& file, short type, int command = F_SETLK) {
  auto lock = whole(type);
  return error_of_call(::fcntl(file.get(), command, &lock));
}

/// The same file by an export, by another export of the directory, and on the host.
class ExportLocks : public ExportTest {
 protected:
  ExportLocks() {
    put_content(host("file"), "x");
    put_content(host("other"), "served");
    fs::create_directory(outside("second"));
    first_.emplace(host(), mounted());
    second_.emplace(host(), outside("second"));
    places_ = {mounted("file"), outside("second") / "file", host("file")};
  }
  /// In another process, by another place.
  [[nodiscard]] static int in_other_process(const std::function<long()>& call) {
    return error_as(0, call);
  }
  std::optional<Exported> first_;
  std::optional<Exported> second_;
  std::vector<fs::path> places_;
};

TEST_F(ExportLocks, OfPosixHoldEverywhere) {
  for (const auto& mine : places_) {
    const auto file = open_file(mine, O_RDWR);
    ASSERT_EQ(lock_error(file, F_WRLCK), 0);
    for (const auto& theirs : places_) {
      EXPECT_EQ(in_other_process([&] {
                  auto lock = whole(F_WRLCK);
                  return ::fcntl(open_file(theirs, O_RDWR).get(), F_SETLK, &lock);
                }),
                EAGAIN)
          << mine << " " << theirs;
    }
    ASSERT_EQ(lock_error(file, F_RDLCK), 0);
    EXPECT_EQ(in_other_process([&] {
                auto lock = whole(F_RDLCK);
                return ::fcntl(open_file(places_[0], O_RDWR).get(), F_SETLK, &lock);
              }),
              0);
    // Any descriptor of the file that is closed takes the process's locks with it.
    { const auto another = open_file(mine, O_RDONLY); }
    EXPECT_EQ(in_other_process([&] {
                auto lock = whole(F_WRLCK);
                return ::fcntl(open_file(places_[1], O_RDWR).get(), F_SETLK, &lock);
              }),
              0);
  }
}

TEST_F(ExportLocks, OfFlockHoldEverywhere) {
  for (const auto& mine : places_) {
    const auto file = open_file(mine, O_RDONLY);
    ASSERT_EQ(::flock(file.get(), LOCK_EX), 0);
    for (const auto& theirs : places_) {
      const auto other = open_file(theirs, O_RDONLY);
      EXPECT_EQ(error_of_call(::flock(other.get(), LOCK_SH | LOCK_NB)), EWOULDBLOCK);
    }
  }
}

TEST_F(ExportLocks, OfFlockGoWithTheirFileAlsoWhereAnotherStaysOpen) {
  for (const auto& mine : places_) {
    auto file = open_file(mine, O_RDWR);
    const auto other = open_file(mine, O_RDWR);
    ASSERT_EQ(::flock(file.get(), LOCK_EX), 0);
    ASSERT_EQ(error_of_call(::flock(other.get(), LOCK_EX | LOCK_NB)), EWOULDBLOCK);
    file = {};
    // The kernel tells of the last close of a file a little later.
    EXPECT_TRUE(eventually([&] { return ::flock(other.get(), LOCK_EX | LOCK_NB) == 0; })) << mine;
  }
}

TEST_F(ExportLocks, OfOpenFilesGoWithThem) {
  for (const auto& mine : places_) {
    auto file = open_file(mine, O_RDWR);
    // The kernel tells of the last close of a file a little later.
    ASSERT_TRUE(eventually([&] { return lock_error(file, F_WRLCK, F_OFD_SETLK) == 0; })) << mine;
    const auto is_free = [&] {
      const auto other = open_file(places_[1], O_RDWR);
      return lock_error(other, F_WRLCK, F_OFD_SETLK) == 0;
    };
    // Another descriptor of the file that is closed changes nothing.
    { const auto another = open_file(mine, O_RDONLY); }
    EXPECT_FALSE(is_free()) << mine;
    file = {};
    EXPECT_TRUE(eventually(is_free)) << mine;
  }
}

TEST_F(ExportLocks, WaitUntilTheyAreGivenUp) {
  for (const auto& mine : places_) {
    const auto file = open_file(mine, O_RDWR);
    ASSERT_EQ(lock_error(file, F_WRLCK), 0);
    // More that wait than there are threads that serve.
    std::vector<std::unique_ptr<Worker>> waiting;
    for (int i = 0; i < 40; ++i) {
      waiting.push_back(std::make_unique<Worker>([&] {
        const auto other = open_file(places_[0], O_RDWR);
        if (lock_error(other, F_WRLCK, F_SETLKW) != 0) throw std::runtime_error("no lock");
      }));
    }
    EXPECT_EQ(content_of(mounted("other")), "served");
    for (const auto& worker : waiting) EXPECT_FALSE(worker->watched().has_ended());
    ASSERT_EQ(lock_error(file, F_UNLCK), 0);
    for (const auto& worker : waiting) EXPECT_EQ(worker->wait().status, 0);
  }
}

TEST_F(ExportLocks, ThatAreWaitedForCanBeInterrupted) {
  const auto file = open_file(places_[2], O_RDWR);
  ASSERT_EQ(lock_error(file, F_WRLCK), 0);
  EXPECT_EQ(in_other_process([&]() -> long {
              struct sigaction nothing {};
              nothing.sa_handler = [](int) {};
              ::sigaction(SIGALRM, &nothing, nullptr);
              const auto other = open_file(places_[0], O_RDWR);
              ::alarm(1);
              auto lock = whole(F_WRLCK);
              return ::fcntl(other.get(), F_SETLKW, &lock);
            }),
            EINTR);
  ASSERT_EQ(lock_error(file, F_UNLCK), 0);
  // Nothing of the one that gave up is left.
  EXPECT_EQ(in_other_process([&] {
              auto lock = whole(F_WRLCK);
              return ::fcntl(open_file(places_[1], O_RDWR).get(), F_SETLK, &lock);
            }),
            0);
}

TEST_F(ExportLocks, TellWhoIsInTheWay) {
  const auto file = open_file(places_[0], O_RDWR);
  auto lock = whole(F_WRLCK);
  lock.l_start = 10;
  lock.l_len = 5;
  ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
  const auto me = ::getpid();
  for (const auto& place : {places_[0], places_[2]}) {
    EXPECT_EQ(in_other_process([&]() -> long {
                auto found = whole(F_RDLCK);
                const auto other = open_file(place, O_RDWR);
                if (::fcntl(other.get(), F_GETLK, &found) != 0) return -1;
                const bool same =
                    found.l_type == F_WRLCK && found.l_start == 10 && found.l_len == 5;
                errno = EBADMSG;
                return same && (place == places_[2] || found.l_pid == me) ? 0 : -1;
              }),
              0)
        << place;
  }
}

}  // namespace
}  // namespace cowfs::tests
