// What `cowfs mount` refuses: with which status, in which words; and that a refusal leaves nothing
// mounted, no daemon, and every file as it was.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <ctime>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/forked_process.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Matcher;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::uint64_t image_size = 1'000'000;

constexpr int failed = 1;
constexpr int usage = 2;
constexpr int backing_mismatch = 3;
constexpr int damaged_cow = 4;
constexpr int in_use = 5;

/// As `date` prints it.
std::string human_time(std::time_t time) {
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", std::localtime(&time));
  return text.data();
}

class Refusal : public MountTest {
 protected:
  Refusal() : files_(make_files(image_size)) {}

  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] std::string cow() const { return files_.cow.string(); }
  [[nodiscard]] std::string backing() const { return files_.backing.string(); }

  void patch_cow(std::uint64_t offset, const Bytes& bytes) const {
    write_at(open_file(files_.cow, O_WRONLY), offset, bytes);
  }

  /// Runs `cowfs mount WORDS` and expects it to fail with that status and one line of that kind,
  /// and to leave everything as it is. Both in the background and in the foreground.
  void expect_refused(const std::vector<std::string>& words, int status,
                      const Matcher<std::string>& message) const {
    for (const bool foreground : {false, true}) {
      SCOPED_TRACE(foreground ? "in the foreground" : "in the background");
      const auto before = snapshot();
      const auto mounts_before = cowfs_mount_points();
      const auto processes_before = cowfs_processes();
      std::vector<std::string> command{cowfs_program(), "mount"};
      if (foreground) command.emplace_back("--foreground");
      command.insert(command.end(), words.begin(), words.end());
      const auto outcome = run({.command = command, .directory = directory()});
      EXPECT_EQ(outcome.status, status);
      EXPECT_THAT(outcome.err, AllOf(StartsWith("cowfs: "), message));
      EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
      EXPECT_EQ(outcome.out, "");
      EXPECT_EQ(cowfs_mount_points(), mounts_before);
      EXPECT_TRUE(eventually([&] { return cowfs_processes() == processes_before; }));
      EXPECT_EQ(snapshot(), before);
    }
  }
  void expect_refused(int status, const Matcher<std::string>& message) const {
    expect_refused({cow(), point().string()}, status, message);
  }

 private:
  /// Of each file: its name, content, mode and time of change.
  [[nodiscard]] std::vector<std::string> snapshot() const {
    std::vector<std::string> lines;
    for (const auto& name : names_in(directory())) {
      const auto path = directory() / name;
      struct stat status {};
      EXPECT_EQ(::lstat(path.c_str(), &status), 0);
      const auto content = S_ISREG(status.st_mode) ? read_file(path) : Bytes();
      lines.push_back(name + " " + std::to_string(status.st_mode) + " " +
                      std::to_string(status.st_mtim.tv_sec) + "." +
                      std::to_string(status.st_mtim.tv_nsec) + " ");
      lines.back().append(reinterpret_cast<const char*>(content.data()), content.size());
    }
    return lines;
  }

  CowAndBacking files_;
};

Bytes bytes_of(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const auto value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// The backing

TEST_F(Refusal, OfABackingOfAnotherSizeNamesBothSizes) {
  make_file(directory() / "bigger")->resize(2 * image_size);
  const auto bigger = (directory() / "bigger").string();
  const auto message = AllOf(HasSubstr(cow() + ": "), HasSubstr("976.6 KiB (1000000 bytes)"),
                             HasSubstr("1.9 MiB (2000000 bytes)"), HasSubstr("COW,BACKING"));
  expect_refused({cow() + "," + bigger, point().string()}, backing_mismatch,
                 AllOf(message, HasSubstr(bigger)));
  fs::resize_file(files().backing, 2 * image_size);
  expect_refused(backing_mismatch, AllOf(message, HasSubstr(backing())));
}

TEST_F(Refusal, OfAChangedBackingNamesBothTimesAndSaysHowToMendIt) {
  const auto recorded = status_of(files().backing).st_mtim.tv_sec;
  set_mtime(files().backing, 1'234'567'890);
  expect_refused(backing_mismatch,
                 AllOf(HasSubstr(cow() + ": "), HasSubstr(backing()),
                       HasSubstr(human_time(recorded)), HasSubstr(human_time(1'234'567'890)),
                       HasSubstr("touch -m -d @" + std::to_string(recorded))));
}

TEST_F(Refusal, OfAMissingBackingSaysHowToGiveAnother) {
  fs::rename(files().backing, directory() / "moved");
  expect_refused(backing_mismatch,
                 AllOf(HasSubstr(cow() + ": "), HasSubstr(backing()),
                       HasSubstr("No such file or directory"), HasSubstr("COW,BACKING")));
}

TEST_F(Refusal, OfAnExplicitBackingThatDoesNotMatchDoesNotGoOnWithTheOldOne) {
  const auto other = make_cow_and_backing(directory(), image_size, random(), "other");
  set_mtime(other.backing, 1'234'567'890);
  expect_refused({cow() + "," + other.backing.string(), point().string()}, backing_mismatch,
                 AllOf(HasSubstr(cow() + ": "), HasSubstr(other.backing.string())));
}

TEST_F(Refusal, OfAnExplicitBackingThatIsMissing) {
  expect_refused({cow() + ",/nowhere/backing", point().string()}, backing_mismatch,
                 HasSubstr("/nowhere/backing"));
}

TEST_F(Refusal, OfACowThatIsGivenAsItsOwnBacking) {
  expect_refused({cow() + "," + cow(), point().string()}, backing_mismatch,
                 HasSubstr(cow() + ": names itself as its backing"));
}

TEST_F(Refusal, OfADirectoryAsBacking) {
  expect_refused({cow() + "," + directory().string(), point().string()}, failed,
                 HasSubstr(directory().string() + ": is a directory"));
}

// A damaged COW

TEST_F(Refusal, OfAFileThatIsNoCow) {
  const auto message =
      AllOf(HasSubstr("is not a COW file"), HasSubstr("give the COW file, not the backing"));
  expect_refused({backing(), point().string()}, damaged_cow,
                 AllOf(HasSubstr(backing() + ": "), message));
  patch_cow(0, bytes_of({0x4f, 0x4f, 0x4f, 0x4e}));
  expect_refused(damaged_cow, AllOf(HasSubstr(cow() + ": "), message));
}

TEST_F(Refusal, OfACowThatIsCutShort) {
  const auto whole = fs::file_size(files().cow);
  ASSERT_GT(whole, files().layout.data_offset);
  // Empty, in the magic, in the header, before the bitmap, in the bitmap.
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{7}, std::uint64_t{31},
        std::uint64_t{4127}, std::uint64_t{4128}, files().layout.bitmap_offset + 10}) {
    SCOPED_TRACE(size);
    const auto cut = directory() / "cut";
    fs::copy_file(files().cow, cut, fs::copy_options::overwrite_existing);
    fs::resize_file(cut, size);
    expect_refused({cut.string(), point().string()}, damaged_cow,
                   AllOf(HasSubstr(cut.string() + ": "), HasSubstr("; ")));
  }
}

struct Damage {
  std::string name;
  std::uint64_t offset;
  Bytes bytes;
  std::string message;
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

class RefusalOfDamage : public Refusal, public ::testing::WithParamInterface<Damage> {};

TEST_P(RefusalOfDamage, NamesTheFileAndTheFault) {
  patch_cow(GetParam().offset, GetParam().bytes);
  expect_refused(damaged_cow, AllOf(HasSubstr(cow() + ": "), HasSubstr(GetParam().message)));
}

// Offsets are those of a V3 header.
INSTANTIATE_TEST_SUITE_P(
    , RefusalOfDamage,
    ::testing::Values(
        Damage{"UnknownVersion", 4, bytes_of({0, 0, 0, 4}), "unknown COW version 4"},
        Damage{"VersionZero", 4, bytes_of({0, 0, 0, 0}), "unknown COW version 0"},
        Damage{"SectorSizeZero", 20, bytes_of({0, 0, 0, 0}), "sector size 0"},
        Damage{"SectorSizeOdd", 20, bytes_of({0, 0, 2, 1}), "sector size 513"},
        Damage{"AlignmentZero", 24, bytes_of({0, 0, 0, 0}), "alignment 0"},
        Damage{"AlignmentAbsurd", 24, bytes_of({0xff, 0xff, 0xff, 0xff}), "alignment 4294967295"},
        Damage{"SizeAbsurd", 12, bytes_of({0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
               "9223372036854775807 bytes for the backing"},
        Damage{"SizeOverflowing", 12, Bytes(8, std::byte{0xff}),
               "18446744073709551615 bytes for the backing"},
        Damage{"BitmapPastTheEnd", 12, bytes_of({0, 0, 0x10, 0, 0, 0, 0, 0}),
               "cut short inside its bitmap"},
        Damage{"PathWithoutEnd", 32, Bytes(4096, std::byte{'/'}), "does not end"}),
    [](const auto& test) { return test.param.name; });

// Things that are in use

TEST_F(Refusal, OfACowThatAnotherProgramHasLockedNamesTheProcess) {
  const auto path = cow();
  for (const short kind : {short{F_RDLCK}, short{F_WRLCK}}) {
    const ForkedProcess other([&] { return take_process_lock(path.c_str(), kind); });
    ASSERT_TRUE(other.succeeded());
    const auto message =
        AllOf(HasSubstr(cow() + ": in use by "),
              HasSubstr("(pid " + std::to_string(other.pid()) + ")"), HasSubstr("stop it"));
    expect_refused(in_use, message);
    if (kind == F_WRLCK) expect_refused({"-o", "ro", cow(), point().string()}, in_use, message);
  }
}

TEST_F(Refusal, OfACowThatIsMountedNamesItsDaemon) {
  fs::create_directory(directory() / "dir");
  const auto mounted = mount_image(cow(), directory() / "dir");
  // Its two processes share the lock.
  const auto in_use_by = [&](const WatchedProcess& process) {
    return HasSubstr(cow() + ": in use by cowfs (pid " + std::to_string(process.pid()) + ")");
  };
  const auto message = AnyOf(in_use_by(mounted.daemon()), in_use_by(mounted.worker()));
  expect_refused(in_use, message);
  expect_refused({"-o", "ro", cow(), point().string()}, in_use, message);
}

TEST_F(Refusal, OfABackingThatAnotherProgramHasLockedForWriting) {
  const auto path = backing();
  const ForkedProcess other([&] { return take_process_lock(path.c_str(), F_WRLCK); });
  ASSERT_TRUE(other.succeeded());
  expect_refused(in_use, AllOf(HasSubstr(backing() + ": in use by "),
                               HasSubstr("(pid " + std::to_string(other.pid()) + ")")));
}

// Things of the wrong kind

TEST_F(Refusal, OfACowThatIsNotThere) {
  const auto missing = (directory() / "missing").string();
  expect_refused({missing, point().string()}, failed,
                 AllOf(HasSubstr(missing + ": "), HasSubstr("No such file or directory")));
}

TEST_F(Refusal, OfAFifoADirectoryADeviceOrASocketAsCow) {
  const auto expect_kind_refused = [&](const fs::path& path, const std::string& kind) {
    SCOPED_TRACE(kind);
    expect_refused({path.string(), point().string()}, failed,
                   AllOf(HasSubstr(path.string() + ": is " + kind), HasSubstr("; give")));
  };
  ASSERT_EQ(::mkfifo((directory() / "fifo").c_str(), 0600), 0);
  ASSERT_EQ(::mknod((directory() / "block").c_str(), S_IFBLK | 0600, makedev(7, 0)), 0);
  ASSERT_EQ(::mknod((directory() / "socket").c_str(), S_IFSOCK | 0600, 0), 0);
  fs::create_directory(directory() / "dir");
  expect_kind_refused(directory() / "fifo", "a FIFO");
  expect_kind_refused(directory() / "dir", "a directory");
  expect_kind_refused(directory() / "block", "a block device");
  expect_kind_refused(directory() / "socket", "a socket");
  expect_kind_refused("/dev/zero", "a character device");
}

TEST_F(Refusal, OfAMountPointThatIsNotThereOrOfTheWrongKind) {
  const auto missing = (directory() / "missing").string();
  expect_refused({cow(), missing}, failed, AllOf(HasSubstr(missing + ": "), HasSubstr("make")));
  const auto fifo = (directory() / "fifo").string();
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused({cow(), fifo}, failed, AllOf(HasSubstr(fifo + ": "), HasSubstr("; give")));
}

TEST_F(Refusal, OfAV1OrV2CowWithSectorsThatCannotBeWrittenNamesWhatHelps) {
  for (const auto format : {core::HeaderFormat::v1, core::HeaderFormat::v2}) {
    const auto where = directory() / core::format_name(format);
    fs::create_directory(where);
    const auto order =
        format == core::HeaderFormat::v1 ? core::MagicOrder::little : core::MagicOrder::big;
    const auto pair = make_pair_on_disk(
        where, {.format = format, .backing_size = 512 * 2051, .magic_order = order}, random());
    expect_refused({pair.cow.string(), point().string()}, failed,
                   AllOf(HasSubstr(pair.cow.string() + ": "), HasSubstr("last 3 sectors"),
                         HasSubstr("-o ro"), HasSubstr("`cowfs convert`")));
    const auto mounted = mount_image(pair.cow.string(), point(), {"-o", "ro"});
    EXPECT_EQ(read_file(mounted.file()), pair.content);
  }
}

// Usage

TEST_F(Refusal, OfWrongUsageNamesTheWordThatIsWrong) {
  for (const std::string option : {"nonsense",
                                   "cache=all",
                                   "cache=",
                                   "cache",
                                   "cache=window:",
                                   "cache=window:1K",
                                   "cache=window:9Q",
                                   "commit=soon",
                                   "commit=-1",
                                   "commit=",
                                   "commit=86401",
                                   "threads=0",
                                   "threads=many",
                                   "threads=257",
                                   "threads=4x",
                                   "watchdog=",
                                   "watchdog=never",
                                   "pending=maybe",
                                   "pending",
                                   "backing-change=ignore",
                                   "ro=1",
                                   "default_permissions",
                                   "dev"}) {
    SCOPED_TRACE(option);
    const auto message = HasSubstr("-o " + option + ": ");
    expect_refused({"-o", option, cow(), point().string()}, usage, message);
    expect_refused({"-o", "ro," + option, cow(), point().string()}, usage, message);
  }
  expect_refused({}, usage, HasSubstr("COW"));
  expect_refused({cow()}, usage, HasSubstr("MOUNTPOINT"));
  expect_refused({cow(), point().string(), "third"}, usage, HasSubstr("third"));
  expect_refused({"--nonsense", cow(), point().string()}, usage, HasSubstr("--nonsense"));
  expect_refused({cow(), point().string(), "-o"}, usage, HasSubstr("-o"));
}

TEST_F(Refusal, OfAnUnknownCommandIsAboutUsage) {
  EXPECT_EQ(cowfs({}).status, usage);
  EXPECT_EQ(cowfs({"nonsense"}).status, usage);
  EXPECT_EQ(cowfs({"umount"}).status, usage);
  EXPECT_EQ(cowfs({"--help"}).status, 0);
}

}  // namespace
}  // namespace cowfs::tests
