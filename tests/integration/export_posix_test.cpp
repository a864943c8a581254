// An export does what the host does. The same random calls are made on a directory of the host and
// on one that is exported, and everything that they give is compared: results, errors, what is
// read, and what then is there. The model is the host's own file system.
//
// What is known to differ is in one table below, with the reason. A call that it concerns is not
// made; all others must give the same.
//
//   COWFS_POSIX_SEQUENCES   how many sequences of calls each test makes (150 unless it is set)
//   COWFS_POSIX_FIRST       the number of the first one (0), to see one of them again
//   COWFS_TEST_SEED         the same calls each time unless it is set, so that a change is judged
//                           by what it changes; a hunt takes $RANDOM, and many sequences

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

#include "tests/integration/posix/side.hpp"
#include "tests/integration/support/exported.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using posix::Call;
using posix::Side;

constexpr int calls_of_a_sequence = 25;
/// Near it, ext4's files end.
constexpr off_t largest_offset = (off_t{1} << 44) - 4096;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* given = std::getenv(variable);
  return given == nullptr ? otherwise : std::stoull(given);
}

struct Way {
  const char* name;
  const char* options;
  bool passthrough;
  bool keeps_metadata;
};

std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }

bool is(const Call& call, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, call.operation->name) != names.end();
}

mode_t mode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_mode : 0;
}

off_t size_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_size : 0;
}

bool is_direct(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

bool has_set_ids(int fd) {
  const auto mode = mode_of(fd);
  return S_ISREG(mode) && (mode & (S_ISUID | S_ISGID)) != 0;
}

/// See cowfs-export(1), "Differences from the host's file system".
struct Difference {
  const char* what;
  const char* why;
  bool (*concerns)(const Way& way, const Call& call, const Side& model);
};

constexpr std::array differences{
    Difference{"device nodes", "are made only with devices=yes, and rename's whiteout is one",
               [](const Way& /*way*/, const Call& call, const Side& /*model*/) {
                 return is(call, {"mknod-device", "whiteout"});
               }},
    Difference{"offsets past the largest file of the host's file system",
               "are refused later, by the file system: the kernel's FUSE has a limit of its own",
               [](const Way& /*way*/, const Call& call, const Side& model) {
                 const auto fd = model.fd(call.slot);
                 if (is(call, {"pwrite", "pwritev2"})) {
                   return call.offset >= largest_offset && has_set_ids(fd);  // gone nevertheless
                 }
                 if (!is(call, {"lseek", "sendfile", "copy_file_range"})) return false;
                 return std::max({call.offset, size_of(fd) + (call.offset & 0xffff),
                                  ::lseek(fd, 0, SEEK_CUR) + (call.offset & 0xffff)}) >=
                        largest_offset;
               }},
    Difference{"positions in directories", "are numbers of the file system's own",
               [](const Way& /*way*/, const Call& call, const Side& model) {
                 return is(call, {"lseek"}) && S_ISDIR(mode_of(model.fd(call.slot)));
               }},
    Difference{
        "a chown that names nobody, by who is not the owner",
        "is no error: the kernel sends the same before a write that takes set-ID bits away",
        [](const Way& /*way*/, const Call& call, const Side& /*model*/) {
          return is(call, {"chown", "fchown"}) && call.user != 0 && posix::names_no_owner(call);
        }},
    Difference{"the error for attributes of no known kind",
               "is the one for an attribute that is not there, as for those that are not shown",
               [](const Way& /*way*/, const Call& call, const Side& /*model*/) {
                 return is(call, {"getxattr"}) && posix::names_unknown_attribute(call);
               }},
    Difference{"an O_APPEND that is taken away", "stays where there is kernel passthrough",
               [](const Way& way, const Call& call, const Side& model) {
                 const int flags = ::fcntl(model.fd(call.slot), F_GETFL);
                 return way.passthrough && is(call, {"flags"}) && flags >= 0 &&
                        (flags & O_APPEND) != 0;
               }},
    Difference{"O_DIRECT without kernel passthrough, and in copy_file_range",
               "asks for no alignment",
               [](const Way& way, const Call& call, const Side& model) {
                 return (!way.passthrough || is(call, {"copy_file_range"})) &&
                        (is_direct(model.fd(call.slot)) || is_direct(model.fd(call.other_slot)));
               }},
    Difference{"fallocate that shifts content", "is no part of the kernel's FUSE",
               [](const Way& /*way*/, const Call& call, const Side& /*model*/) {
                 return is(call, {"fallocate-shift"});
               }},
    Difference{"root's fallocate and copy_file_range", "clear set-ID bits: FUSE says not who asks",
               [](const Way& /*way*/, const Call& call, const Side& model) {
                 return (is(call, {"fallocate"}) && has_set_ids(model.fd(call.slot))) ||
                        (is(call, {"copy_file_range"}) && has_set_ids(model.fd(call.other_slot)));
               }},
    Difference{"root's writes by kernel passthrough",
               "clear set-ID bits that an open file got: the daemon has no part in them",
               [](const Way& way, const Call& call, const Side& model) {
                 return way.passthrough &&
                        ((is(call, {"write", "pwrite", "writev", "pwritev2"}) &&
                          has_set_ids(model.fd(call.slot))) ||
                         (is(call, {"sendfile"}) && has_set_ids(model.fd(call.other_slot))));
               }},
};

bool is_known_to_differ(const Way& way, const Call& call, const Side& model) {
  return std::ranges::any_of(differences, [&](const Difference& difference) {
    return difference.concerns(way, call, model);
  });
}

/// What can be seen of the files that a call was about, without any change to them.
std::string traces_of(const Side& side, const Call& call) {
  std::string text;
  for (const auto& path : {call.path, call.other_path}) {
    struct stat status {};
    const bool there = ::fstatat(side.directory(), path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
    text += path + ": " + (there ? posix::line_of(status) : "nothing") + "\n";
  }
  for (const auto slot : {call.slot, call.other_slot}) {
    struct stat status {};
    if (::fstat(side.fd(slot), &status) != 0) continue;
    text += fmt::format("slot {}: {} at {}\n", slot, posix::line_of(status),
                        ::lseek(side.fd(slot), 0, SEEK_CUR));
  }
  return text;
}

std::string difference_of(const posix::State& one, const posix::State& other) {
  std::string text;
  for (const auto& [path, line] : one) {
    const auto found = other.find(path);
    if (found == other.end()) {
      text += fmt::format("{}\n  {}\n  is not there\n", path, line);
    } else if (found->second != line) {
      text += fmt::format("{}\n  {}\n  {}\n", path, line, found->second);
    }
  }
  for (const auto& [path, line] : other) {
    if (!one.contains(path)) text += fmt::format("{}\n  is not there\n  {}\n", path, line);
  }
  return text;
}

class ExportPosix : public ExportTest, public ::testing::WithParamInterface<Way> {
 protected:
  ExportPosix() {
    fs::create_directory(model());
    for (const auto& path : {model(), host()}) fs::permissions(path, fs::perms(0777));
    exported_.emplace(host(), mounted(), GetParam().options);
  }

  static void SetUpTestSuite() { ::setenv("COWFS_TEST_SEED", "20261121", 0); }

  [[nodiscard]] fs::path model() const { return outside("model"); }

  /// Each in a directory of its own, with room for the way up.
  static fs::path make_place(const fs::path& parent, const std::string& name) {
    auto place = parent / name;
    for (const auto* below : {"", "up", "up/root"}) fs::create_directory(place / below);
    return place;
  }

  void run_sequence(std::uint64_t number);
  /// False if something differs.
  bool make_call(Side& host_side, Side& export_side, const Call& call);
  bool compare_states(const std::string& name) const;

  std::optional<Exported> exported_;
  std::vector<std::string> log_;
};

INSTANTIATE_TEST_SUITE_P(
    Options, ExportPosix,
    ::testing::Values(Way{"Default", "allow_other", true, false},
                      Way{"WithoutPassthrough", "allow_other,passthrough=off", false, false},
                      Way{"WithoutCache", "allow_other,cache=never,passthrough=off", false, false},
                      Way{"MetadataInAttributes", "allow_other,metadata=xattr", false, true}),
    [](const auto& way) { return way.param.name; });

bool ExportPosix::make_call(Side& host_side, Side& export_side, const Call& call) {
  if (is_known_to_differ(GetParam(), call, host_side)) return true;
  log_.push_back(posix::describe(call));
  const auto expected = host_side.perform(call);
  auto actual = export_side.perform(call);
  // The kernel tells of the last close of a file some time after it.
  if (actual != expected && is(call, {"flock", "lock", "test-lock"})) {
    (void)eventually([&] { return (actual = export_side.perform(call)) == expected; });
  }
  log_.back() += " -> " + posix::describe(expected);
  EXPECT_EQ(posix::describe(actual), posix::describe(expected)) << log_.back();
  EXPECT_TRUE(actual == expected) << log_.back();
  const auto trace = traces_of(host_side, call);
  EXPECT_EQ(traces_of(export_side, call), trace) << log_.back();
  if (expected.error == EBADF) log_.pop_back();
  return !HasFailure();
}

bool ExportPosix::compare_states(const std::string& name) const {
  const auto expected = posix::state_of(model() / name);
  EXPECT_EQ(difference_of(expected, posix::state_of(mounted(name))), "");
  // What the mount shows is what the host has.
  if (!GetParam().keeps_metadata) {
    EXPECT_EQ(difference_of(expected, posix::state_of(host(name))), "");
  }
  return !HasFailure();
}

void ExportPosix::run_sequence(std::uint64_t number) {
  const auto name = std::to_string(number);
  log_.clear();
  {
    TestRandom random(number);
    Side host_side(make_place(model(), name) / "up/root");
    Side export_side(make_place(mounted(), name) / "up/root");
    bool same = true;
    for (int i = 0; same && i < calls_of_a_sequence; ++i) {
      same = make_call(host_side, export_side, posix::random_call(random));
    }
    if (!same || !compare_states(name)) {
      ADD_FAILURE() << seed_hint() << " COWFS_POSIX_FIRST=" << number
                    << " COWFS_POSIX_SEQUENCES=1\n"
                    << fmt::format("{}", fmt::join(log_, "\n"));
    }
  }
  fs::remove_all(model() / name);
  fs::remove_all(host(name));
}

TEST_P(ExportPosix, DoesWhatTheHostDoes) {
  const auto first = number_from("COWFS_POSIX_FIRST", 0);
  const auto count = number_from("COWFS_POSIX_SEQUENCES", 150);
  for (auto number = first; number < first + count && !HasFailure(); ++number) run_sequence(number);
}

}  // namespace
}  // namespace cowfs::tests
