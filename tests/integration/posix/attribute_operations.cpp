// Calls on attributes, extended attributes and times.

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "tests/integration/posix/side.hpp"

namespace cowfs::tests::posix {
namespace {

long stat_path(Side& side, const Call& call, std::string& read) {
  struct stat status {};
  const int flags = maybe(call, 0, 2, AT_SYMLINK_NOFOLLOW);
  if (::fstatat(side.directory(), call.path.c_str(), &status, flags) != 0) return -1;
  read = line_of(status);
  return 0;
}

long stat_open_file(Side& side, const Call& call, std::string& read) {
  struct stat status {};
  if (::fstat(side.fd(call.slot), &status) != 0) return -1;
  read = line_of(status);
  return 0;
}

long statx_path(Side& side, const Call& call, std::string& read) {
  constexpr unsigned mask = STATX_BASIC_STATS;
  struct statx status {};
  constexpr std::array syncs{AT_STATX_SYNC_AS_STAT, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC};
  const int flags = pick(call, 0, syncs) | AT_SYMLINK_NOFOLLOW | maybe(call, 8, 3, AT_EMPTY_PATH);
  if (::statx(side.directory(), call.path.c_str(), flags, mask, &status) != 0) return -1;
  read = fmt::format("{:o} {}:{} {} {} {:x}", status.stx_mode, status.stx_uid, status.stx_gid,
                     status.stx_nlink, status.stx_size, status.stx_mask & mask);
  return 0;
}

long statvfs_path(Side& side, const Call& call, std::string& read) {
  struct statvfs status {};
  if (::statvfs((side.path() / call.path).c_str(), &status) != 0) return -1;
  read = fmt::format("{} {} {} {}", status.f_bsize, status.f_frsize, status.f_blocks,
                     status.f_namemax);
  return 0;
}

long change_mode(Side& side, const Call& call, std::string& /*read*/) {
  return ::fchmodat(side.directory(), call.path.c_str(), call.mode, 0);
}

long change_mode_of_open_file(Side& side, const Call& call, std::string& /*read*/) {
  return ::fchmod(side.fd(call.slot), call.mode);
}

constexpr std::array<uid_t, 4> owners{uid_t(-1), 0, users[1].uid, users[2].uid};

long change_owner(Side& side, const Call& call, std::string& /*read*/) {
  return ::fchownat(side.directory(), call.path.c_str(), pick(call, 0, owners),
                    pick(call, 8, owners), maybe(call, 16, 2, AT_SYMLINK_NOFOLLOW));
}

long change_owner_of_open_file(Side& side, const Call& call, std::string& /*read*/) {
  return ::fchown(side.fd(call.slot), pick(call, 0, owners), pick(call, 8, owners));
}

std::array<timespec, 2> random_times(const Call& call) {
  constexpr std::array<timespec, 9> times{timespec{0, 0},
                                          timespec{1, 1},
                                          timespec{1234567, 999999999},
                                          timespec{-1, 5},
                                          timespec{999999999, 123456789},
                                          timespec{77, UTIME_NOW},
                                          timespec{77, UTIME_OMIT},
                                          timespec{77, UTIME_OMIT},
                                          timespec{77, 1000000000}};
  return {pick(call, 0, times), pick(call, 8, times)};
}

/// The time of the last access can be compared only here: other calls may read.
void add_access_time(const struct stat& status, std::string& read) {
  if (status.st_atim.tv_sec < times_set_until) {
    read = fmt::format("atime {}.{:09}", status.st_atim.tv_sec, status.st_atim.tv_nsec);
  }
}

long change_times(Side& side, const Call& call, std::string& read) {
  const auto times = random_times(call);
  const int flags = maybe(call, 16, 2, AT_SYMLINK_NOFOLLOW);
  const bool to_now = maybe(call, 24, 4, 1) != 0;
  const auto* path = call.path.c_str();
  if (::utimensat(side.directory(), path, to_now ? nullptr : times.data(), flags) != 0) return -1;
  struct stat status {};
  if (times[0].tv_nsec != UTIME_OMIT && ::fstatat(side.directory(), path, &status, flags) == 0) {
    add_access_time(status, read);
  }
  return 0;
}

long change_times_of_open_file(Side& side, const Call& call, std::string& read) {
  const auto times = random_times(call);
  if (::futimens(side.fd(call.slot), times.data()) != 0) return -1;
  struct stat status {};
  if (times[0].tv_nsec != UTIME_OMIT && ::fstat(side.fd(call.slot), &status) == 0) {
    add_access_time(status, read);
  }
  return 0;
}

// --- extended attributes ---

std::string attribute_name(const Call& call) {
  static const std::array<std::string, 9> names{"user.a",
                                                "user.b",
                                                "user.a long name with spaces",
                                                "user.a",
                                                "user.b",
                                                "nobody.a",
                                                "user.",
                                                "user." + std::string(250, 'n'),
                                                "user." + std::string(251, 'n')};
  return pick(call, 0, names);
}

std::string attribute_value(const Call& call) {
  constexpr std::array<std::size_t, 8> sizes{0, 1, 10, 10, 100, 1000, 5000, 70000};
  return pattern(call, pick(call, 8, sizes));
}

int attribute_flags(const Call& call) {
  constexpr std::array<int, 6> flags{
      0, 0, 0, XATTR_CREATE, XATTR_REPLACE, XATTR_CREATE | XATTR_REPLACE};
  return pick(call, 16, flags);
}

long set_attribute(Side& side, const Call& call, std::string& /*read*/) {
  const auto path = side.path() / call.path;
  const auto value = attribute_value(call);
  const auto set = maybe(call, 24, 3, 1) != 0 ? ::lsetxattr : ::setxattr;
  return set(path.c_str(), attribute_name(call).c_str(), value.data(), value.size(),
             attribute_flags(call));
}

long set_attribute_of_open_file(Side& side, const Call& call, std::string& /*read*/) {
  const auto value = attribute_value(call);
  return ::fsetxattr(side.fd(call.slot), attribute_name(call).c_str(), value.data(), value.size(),
                     attribute_flags(call));
}

long get_attribute(Side& side, const Call& call, std::string& read) {
  constexpr std::array<std::size_t, 5> rooms{0, 5, 4096, 4096, 100000};
  const auto path = side.path() / call.path;
  const auto room = pick(call, 8, rooms);
  const auto get = maybe(call, 24, 3, 1) != 0 ? ::lgetxattr : ::getxattr;
  const auto length = get(path.c_str(), attribute_name(call).c_str(), side.buffer(), room);
  if (length > 0 && room > 0) read.assign(side.buffer(), static_cast<std::size_t>(length));
  return length;
}

long list_attributes(Side& side, const Call& call, std::string& read) {
  constexpr std::array<std::size_t, 4> rooms{0, 3, 65536, 65536};
  const auto path = side.path() / call.path;
  const auto room = pick(call, 8, rooms);
  const auto list = maybe(call, 24, 3, 1) != 0 ? ::llistxattr : ::listxattr;
  const auto length = list(path.c_str(), side.buffer(), room);
  if (length <= 0 || room == 0) return length;
  std::set<std::string> names;
  for (const char* name = side.buffer(); name < side.buffer() + length; name += strlen(name) + 1) {
    names.insert(name);
  }
  read = fmt::format("{}", fmt::join(names, " "));
  return length;
}

long remove_attribute(Side& side, const Call& call, std::string& /*read*/) {
  const auto path = side.path() / call.path;
  const auto remove = maybe(call, 24, 3, 1) != 0 ? ::lremovexattr : ::removexattr;
  return remove(path.c_str(), attribute_name(call).c_str());
}

constexpr std::array operations{
    Operation{"stat", 6, stat_path},
    Operation{"fstat", 6, stat_open_file},
    Operation{"statx", 3, statx_path},
    Operation{"statvfs", 1, statvfs_path},
    Operation{"chmod", 8, change_mode},
    Operation{"fchmod", 4, change_mode_of_open_file},
    Operation{"chown", 8, change_owner},
    Operation{"fchown", 4, change_owner_of_open_file},
    Operation{"utimensat", 6, change_times},
    Operation{"futimens", 4, change_times_of_open_file},
    Operation{"setxattr", 5, set_attribute},
    Operation{"fsetxattr", 3, set_attribute_of_open_file},
    Operation{"getxattr", 4, get_attribute},
    Operation{"listxattr", 3, list_attributes},
    Operation{"removexattr", 3, remove_attribute},
};

}  // namespace

bool names_no_owner(const Call& call) {
  return pick(call, 0, owners) == uid_t(-1) && pick(call, 8, owners) == uid_t(-1);
}

bool names_unknown_attribute(const Call& call) {
  return !attribute_name(call).starts_with("user.");
}

std::span<const Operation> attribute_operations() { return operations; }

}  // namespace cowfs::tests::posix
