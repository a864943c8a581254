#include "cowcore/open_as.hpp"

#include <grp.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace cowfs::core {
namespace {

constexpr gid_t nobody_group = 65534;

struct Rights {
  uid_t user;
  gid_t group;
  std::vector<gid_t> groups;
};

Rights rights_of(uid_t user) {
  Rights rights{.user = user, .group = nobody_group, .groups = {}};
  std::array<char, 16384> buffer;
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(user, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) {
    return rights;  // unknown to the user database: no group lets it in
  }
  rights.group = entry.pw_gid;
  int count = 64;
  rights.groups.resize(static_cast<std::size_t>(count));
  if (::getgrouplist(entry.pw_name, entry.pw_gid, rights.groups.data(), &count) < 0) {
    rights.groups.resize(static_cast<std::size_t>(count));
    ::getgrouplist(entry.pw_name, entry.pw_gid, rights.groups.data(), &count);
  }
  rights.groups.resize(static_cast<std::size_t>(count));
  return rights;
}

/// By bare system calls: the C library's functions would change every thread of the process.
void take_on(const Rights& rights) {
  if (::syscall(SYS_setgroups, rights.groups.size(), rights.groups.data()) != 0 ||
      ::syscall(SYS_setresgid, rights.group, rights.group, rights.group) != 0 ||
      ::syscall(SYS_setresuid, rights.user, rights.user, rights.user) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot take on another user's rights");
  }
}

}  // namespace

std::unique_ptr<PosixStorage> open_for_reading_as(uid_t user, const boost::filesystem::path& path) {
  const auto rights = rights_of(user);
  std::unique_ptr<PosixStorage> file;
  std::exception_ptr error;
  std::thread([&] {
    try {
      take_on(rights);
      file = PosixStorage::open(path, Access::read_only, FileKinds::regular_or_block);
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
  return file;
}

}  // namespace cowfs::core
