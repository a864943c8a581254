// Calls that find, make, move and remove names.

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

#include "tests/integration/posix/side.hpp"

namespace cowfs::tests::posix {
namespace {

/// Never waits: the flag has no other meaning for what there is here.
int open_flags(const Call& call) {
  constexpr std::array access{O_RDONLY, O_WRONLY, O_RDWR, O_RDWR};
  if (maybe(call, 8, 24, 1) != 0) return O_PATH | maybe(call, 16, 2, O_NOFOLLOW);
  if (maybe(call, 8, 20, 1) != 0) {
    return O_TMPFILE | pick(call, 0, access) | maybe(call, 16, 4, O_EXCL) | O_NONBLOCK;
  }
  return pick(call, 0, access) | O_NONBLOCK | O_CLOEXEC | maybe(call, 16, 2, O_CREAT) |
         maybe(call, 24, 6, O_EXCL) | maybe(call, 32, 5, O_TRUNC) | maybe(call, 40, 4, O_APPEND) |
         maybe(call, 48, 8, O_NOFOLLOW) | maybe(call, 52, 12, O_DIRECTORY) |
         maybe(call, 56, 20, O_DIRECT) | maybe(call, 44, 90, O_SYNC);
}

long open_file(Side& side, const Call& call, std::string& /*read*/) {
  return side.keep(call.slot,
                   ::openat(side.directory(), call.path.c_str(), open_flags(call), call.mode));
}

long creat_file(Side& side, const Call& call, std::string& /*read*/) {
  return side.keep(call.slot, ::openat(side.directory(), call.path.c_str(),
                                       O_RDWR | O_CREAT | O_NONBLOCK, call.mode | 0400));
}

long make_directory(Side& side, const Call& call, std::string& /*read*/) {
  return ::mkdirat(side.directory(), call.path.c_str(), call.mode);
}

long remove_directory(Side& side, const Call& call, std::string& /*read*/) {
  return ::unlinkat(side.directory(), call.path.c_str(), AT_REMOVEDIR);
}

long unlink_file(Side& side, const Call& call, std::string& /*read*/) {
  return ::unlinkat(side.directory(), call.path.c_str(), 0);
}

long rename_file(Side& side, const Call& call, std::string& /*read*/) {
  return ::renameat(side.directory(), call.path.c_str(), side.directory(), call.other_path.c_str());
}

long rename_with_flags(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array<unsigned, 4> flags{RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE,
                                          RENAME_EXCHANGE | RENAME_NOREPLACE};
  return ::renameat2(side.directory(), call.path.c_str(), side.directory(), call.other_path.c_str(),
                     pick(call, 0, flags));
}

long rename_with_whiteout(Side& side, const Call& call, std::string& /*read*/) {
  return ::renameat2(side.directory(), call.path.c_str(), side.directory(), call.other_path.c_str(),
                     RENAME_WHITEOUT);
}

long make_link(Side& side, const Call& call, std::string& /*read*/) {
  return ::linkat(side.directory(), call.path.c_str(), side.directory(), call.other_path.c_str(),
                  maybe(call, 0, 3, AT_SYMLINK_FOLLOW));
}

/// Gives an open file a (further) name.
long link_open_file(Side& side, const Call& call, std::string& /*read*/) {
  if (maybe(call, 0, 2, 1) != 0) {
    return ::linkat(side.fd(call.slot), "", side.directory(), call.path.c_str(), AT_EMPTY_PATH);
  }
  const auto magic = fmt::format("/proc/self/fd/{}", side.fd(call.slot));
  return ::linkat(AT_FDCWD, magic.c_str(), side.directory(), call.path.c_str(), AT_SYMLINK_FOLLOW);
}

long make_symlink(Side& side, const Call& call, std::string& /*read*/) {
  const std::array<std::string, 5> odd{"", std::string(4095, 't'), std::string(4096, 't'), "/a/b",
                                       "../x"};
  const auto& text = maybe(call, 0, 6, 1) != 0 ? pick(call, 8, odd) : call.other_path;
  return ::symlinkat(text.c_str(), side.directory(), call.path.c_str());
}

long read_link(Side& side, const Call& call, std::string& read) {
  const std::size_t room = maybe(call, 0, 6, 1) != 0 ? 2 : 4096;
  const auto length = ::readlinkat(side.directory(), call.path.c_str(), side.buffer(), room);
  if (length > 0) read.assign(side.buffer(), static_cast<std::size_t>(length));
  return length;
}

long make_node(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array<mode_t, 5> types{S_IFIFO, S_IFSOCK, S_IFREG, 0, S_IFDIR};
  return ::mknodat(side.directory(), call.path.c_str(), pick(call, 0, types) | call.mode, 0);
}

long make_device(Side& side, const Call& call, std::string& /*read*/) {
  constexpr std::array<mode_t, 2> types{S_IFCHR, S_IFBLK};
  return ::mknodat(side.directory(), call.path.c_str(), pick(call, 0, types) | call.mode,
                   makedev(1, 3));
}

long truncate_by_path(Side& side, const Call& call, std::string& /*read*/) {
  // Relative to the directory that is current, as truncate(2) has no other form.
  return ::truncate((side.path() / call.path).c_str(), call.offset);
}

long may_access(Side& side, const Call& call, std::string& /*read*/) {
  const int flags = maybe(call, 8, 3, AT_EACCESS) | maybe(call, 16, 3, AT_SYMLINK_NOFOLLOW);
  return ::faccessat(side.directory(), call.path.c_str(), static_cast<int>(call.choice & 7), flags);
}

/// A type that is told must be the right one.
std::string type_text(int directory, const dirent& entry) {
  struct stat status {};
  if (::fstatat(directory, entry.d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) return "not there";
  const auto type = IFTODT(status.st_mode);
  return entry.d_type == DT_UNKNOWN || entry.d_type == type ? std::to_string(type) : "a wrong type";
}

/// All entries with their types; they must come again, in the same order, after a seek back.
long list_directory(Side& side, const Call& call, std::string& read) {
  const int fd = ::openat(side.directory(), call.path.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return -1;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(fd), &::closedir);
  std::vector<std::string> entries;
  std::vector<long> places{::telldir(directory.get())};
  const auto next = [&] {
    const auto* entry = ::readdir(directory.get());
    return entry == nullptr ? std::string()
                            : fmt::format("{}:{}", entry->d_name, type_text(fd, *entry));
  };
  for (auto entry = next(); !entry.empty(); entry = next()) {
    entries.push_back(entry);
    places.push_back(::telldir(directory.get()));
  }
  const auto again = call.choice % places.size();
  ::seekdir(directory.get(), places[again]);
  for (auto i = again; i < entries.size(); ++i) {
    if (next() != entries[i]) read += "another entry after seekdir ";
  }
  if (!next().empty()) read += "more entries after seekdir ";
  std::ranges::sort(entries);
  read += fmt::format("{}", fmt::join(entries, " "));
  return static_cast<long>(entries.size());
}

constexpr std::array operations{
    Operation{"open", 30, open_file},
    Operation{"creat", 15, creat_file},
    Operation{"mkdir", 8, make_directory},
    Operation{"rmdir", 5, remove_directory},
    Operation{"unlink", 6, unlink_file},
    Operation{"rename", 8, rename_file},
    Operation{"renameat2", 5, rename_with_flags},
    Operation{"whiteout", 1, rename_with_whiteout},
    Operation{"link", 6, make_link},
    Operation{"link-open", 4, link_open_file},
    Operation{"symlink", 5, make_symlink},
    Operation{"readlink", 3, read_link},
    Operation{"mknod", 5, make_node},
    Operation{"mknod-device", 1, make_device},
    Operation{"truncate", 5, truncate_by_path},
    Operation{"access", 6, may_access},
    Operation{"readdir", 6, list_directory},
};

}  // namespace

std::span<const Operation> path_operations() { return operations; }

}  // namespace cowfs::tests::posix
