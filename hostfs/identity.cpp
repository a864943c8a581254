#include "hostfs/identity.hpp"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {
namespace {

constexpr std::uint64_t bit(int capability) { return std::uint64_t{1} << capability; }

// By system calls: libc's functions change all threads, these change one.

void set_fs_user(uid_t uid) { ::syscall(SYS_setfsuid, uid); }
void set_fs_group(gid_t gid) { ::syscall(SYS_setfsgid, gid); }
void set_groups(std::size_t count, const gid_t* groups) {
  if (::syscall(SYS_setgroups, count, groups) != 0) fail(errno);
}

}  // namespace

WorkerCapabilities needed_capabilities(const ExportOptions& options, bool is_root) {
  if (!is_root || options.as) return {};
  WorkerCapabilities needed;
  needed.effective =
      bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER) | bit(CAP_SETUID) | bit(CAP_SETGID);
  if (options.devices) needed.effective |= bit(CAP_MKNOD);
  needed.permitted = needed.effective | bit(CAP_FSETID);
  return needed;
}

namespace {

bool try_capabilities(const WorkerCapabilities& capabilities) noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  auto* half = data.data();
  for (const int shift : {0, 32}) {
    half->effective = static_cast<std::uint32_t>(capabilities.effective >> shift);
    half->permitted = static_cast<std::uint32_t>(capabilities.permitted >> shift);
    ++half;
  }
  return ::syscall(SYS_capset, &header, data.data()) == 0;
}

/// A thread that can't go back to what it was must not serve anybody else.
void restore_capabilities(const WorkerCapabilities& capabilities) noexcept {
  if (!try_capabilities(capabilities)) std::abort();
}

}  // namespace

void set_thread_capabilities(const WorkerCapabilities& capabilities) {
  if (!try_capabilities(capabilities)) fail(errno);
}

Identity::Identity(const ExportOptions& options, bool is_root)
    : is_root_(is_root && !options.as),
      squash_(options.squash),
      anonymous_user_(options.anonymous_user),
      anonymous_group_(options.anonymous_group),
      capabilities_(needed_capabilities(options, is_root)) {}

bool Identity::squashes(uid_t shown_uid) const {
  return squash_ == Squash::all || (squash_ == Squash::root && shown_uid == 0);
}

Identity::Owning::Owning(const Identity& identity, const Caller& caller) {
  if (!identity.is_root_) return;
  if (caller.supplementary && *caller.supplementary != caller.gid) {
    set_groups(1, &*caller.supplementary);
    groups_ = true;
  }
  if (caller.gid != 0) {
    set_fs_group(caller.gid);
    group_ = true;
  }
  if (caller.uid != 0) {
    set_fs_user(caller.uid);
    user_ = true;
  }
}

Identity::Owning::~Owning() {
  if (user_) set_fs_user(0);
  if (group_) set_fs_group(0);
  if (groups_) ::syscall(SYS_setgroups, 0, nullptr);
}

Identity::Anonymous::Anonymous(const Identity& identity) : identity_(identity) {
  if (!identity.is_root_) return;
  set_fs_group(identity.anonymous_group_);
  set_fs_user(identity.anonymous_user_);
  auto none = identity.capabilities_;
  none.effective = 0;
  set_thread_capabilities(none);
}

Identity::Anonymous::~Anonymous() {
  if (!identity_.is_root_) return;
  restore_capabilities(identity_.capabilities_);
  set_fs_user(0);
  set_fs_group(0);
}

Identity::KeepingSetIds::KeepingSetIds(const Identity& identity) : identity_(identity) {
  if (!identity.is_root_) return;
  auto raised = identity.capabilities_;
  raised.effective = raised.permitted;
  set_thread_capabilities(raised);
}

Identity::KeepingSetIds::~KeepingSetIds() {
  if (identity_.is_root_) restore_capabilities(identity_.capabilities_);
}

}  // namespace cowfs::hostfs
