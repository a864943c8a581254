// A process on the host that swaps files for links, FIFOs and directories while the export's users
// work in it. COWFS_RACE_SECONDS says how long each race runs (5 unless it is set).

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <map>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/prey.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

/// Of one of the three in which each race is run.
std::chrono::milliseconds race_length() {
  const char* given = std::getenv("COWFS_RACE_SECONDS");
  return std::chrono::milliseconds(given != nullptr ? std::atoi(given) * 1000 : 5000) / 3;
}

/// Closes what was opened; returns whether it was.
bool close_opened(int file) { return file >= 0 && ::close(file) == 0; }

class ExportRace : public ExportTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ExportRace() { fs::create_directory(jail()); }

  [[nodiscard]] fs::path jail(const std::string& name = {}) const {
    return name.empty() ? host("jail") : host("jail") / name;
  }

  /// Swaps two names on the host as quickly as it can, and does `attack` through the mount, with
  /// the number of the round, until the time is over. Returns how often it said that it succeeded.
  int race(const fs::path& one, const fs::path& other, const std::function<bool(int)>& attack) {
    const Worker swapping([&] {
      for (;;) {
        if (::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) != 0) {
          throw std::runtime_error("cannot swap");
        }
      }
    });
    int successes = 0;
    const auto end = std::chrono::steady_clock::now() + race_length();
    for (int round = 0; std::chrono::steady_clock::now() < end; ++round) {
      if (attack(round)) ++successes;
    }
    EXPECT_FALSE(swapping.watched().has_ended());
    return successes;
  }
};

// With timeouts the kernel sends requests for what it believes to be there; without, it looks up
// each time, and the swap comes between two requests.
INSTANTIATE_TEST_SUITE_P(Timeout, ExportRace,
                         ::testing::Values("timeout=0", "timeout=0.05",
                                           "timeout=0,metadata=xattr"));

TEST_P(ExportRace, AParentThatIsSwappedForALinkLeadsNowhere) {
  const Prey prey(host("prey"));
  fs::create_directory(jail("a"));
  put_content(jail("a/file"), "own");
  fs::create_symlink("../prey", jail("b"));
  const Exported exported(jail(), mounted(), GetParam());
  const auto a = mounted("a");
  const std::array<std::function<bool(const std::string&)>, 10> attacks{
      [&](auto& name) { return close_opened(::open((a / name).c_str(), O_CREAT | O_RDWR, 0666)); },
      [&](auto& name) { return ::mkdir((a / name).c_str(), 0777) == 0; },
      [&](auto& name) { return ::symlink("x", (a / name).c_str()) == 0; },
      [&](auto& name) { return ::mkfifo((a / name).c_str(), 0666) == 0; },
      [&](auto& name) { return ::link((a / "file").c_str(), (a / name).c_str()) == 0; },
      [&](auto& name) { return ::rename((a / "file").c_str(), (a / name).c_str()) == 0; },
      [&](auto&) { return close_opened(::open((a / "file").c_str(), O_CREAT | O_RDWR | O_TRUNC)); },
      [&](auto&) { return ::chmod((a / "file").c_str(), 0777) == 0; },
      [&](auto&) { return ::setxattr((a / "file").c_str(), "user.a", "x", 1, 0) == 0; },
      [&](auto&) { return ::unlink((a / "file").c_str()) == 0; }};
  const auto done = race(jail("a"), jail("b"), [&](int round) {
    const auto kind = static_cast<std::size_t>(round) % attacks.size();
    return attacks.at(kind)("new" + std::to_string(round));
  });
  EXPECT_GT(done, 0);
  prey.expect_untouched();
}

TEST_P(ExportRace, AFileThatIsSwappedForALinkLeadsNowhere) {
  const Prey prey(host("prey"));
  put_content(jail("a"), "own");
  fs::create_symlink("../prey/file", jail("b"));
  const Exported exported(jail(), mounted(), GetParam());
  const auto a = mounted("a");
  const std::array<timespec, 2> times{timespec{1, 0}, timespec{2, 0}};
  const std::array<std::function<bool()>, 8> attacks{
      [&] { return close_opened(::open(a.c_str(), O_RDWR)); },
      [&] { return close_opened(::open(a.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0666)); },
      [&] { return ::truncate(a.c_str(), 1) == 0; },
      [&] { return ::chmod(a.c_str(), 0777) == 0; },
      [&] { return ::chown(a.c_str(), 1, 1) == 0; },
      [&] { return ::utimensat(AT_FDCWD, a.c_str(), times.data(), 0) == 0; },
      [&] { return ::setxattr(a.c_str(), "user.a", "x", 1, 0) == 0; },
      [&] {
        std::array<char, 64> text{};
        const int file = ::open(a.c_str(), O_RDONLY);
        const auto count = ::read(file, text.data(), text.size());
        EXPECT_TRUE(count <= 0 || text[0] != 'o') << "it reads: " << text.data();
        return close_opened(file);
      }};
  ASSERT_EQ(::truncate(jail("a").c_str(), 0), 0);
  const auto done = race(jail("a"), jail("b"), [&](int round) {
    return attacks.at(static_cast<std::size_t>(round) % attacks.size())();
  });
  EXPECT_GT(done, 0);
  prey.expect_untouched();
}

TEST_P(ExportRace, AFileThatIsSwappedForAFifoOrADeviceIsNotWaitedFor) {
  put_content(jail("a"), "own");
  ASSERT_EQ(::mkfifo(jail("b").c_str(), 0666), 0);
  const Exported exported(jail(), mounted(), GetParam());
  // O_NONBLOCK is for the mount's own FIFO, and the worker does not see it.
  const auto done = race(jail("a"), jail("b"), [&](int round) {
    const int create = round % 2 == 0 ? 0 : O_CREAT;
    return close_opened(::open(mounted("a").c_str(), O_RDONLY | O_NONBLOCK | create, 0666));
  });
  EXPECT_GT(done, 0);
  EXPECT_EQ(::access(mounted().c_str(), R_OK), 0);
}

TEST_P(ExportRace, ADirectoryThatIsMovedInAndOutLeadsNowhere) {
  const Prey prey(host("prey"));
  fs::create_directories(jail("a/deep"));
  fs::create_directory(host("elsewhere"));
  fs::create_directory(host("elsewhere/deep"));
  const Exported exported(jail(), mounted(), GetParam());
  const auto done = race(jail("a"), host("elsewhere"), [&](int round) {
    const auto deep = mounted("a/deep");
    const int directory = ::open(deep.c_str(), O_RDONLY | O_DIRECTORY);
    if (directory < 0) return false;
    EXPECT_NE(::faccessat(directory, "../../prey", F_OK, 0), 0);
    EXPECT_NE(::faccessat(directory, "../../../prey/file", F_OK, 0), 0);
    const auto name = "new" + std::to_string(round % 8);
    const bool made = ::mkdirat(directory, name.c_str(), 0777) == 0;
    ::unlinkat(directory, name.c_str(), AT_REMOVEDIR);
    ::close(directory);
    return made;
  });
  EXPECT_GT(done, 0);
  prey.expect_untouched();
}

}  // namespace
}  // namespace cowfs::tests
