#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "cowcore/file_descriptor.hpp"
#include "hostfs/message.hpp"
#include "hostfs/sandbox.hpp"

namespace cowfs::hostfs {
namespace {

// By number: Debian 12's <linux/landlock.h> may know fewer of them than the kernel.
constexpr std::uint64_t all_of_version_1 = (std::uint64_t{1} << 13) - 1;
constexpr std::uint64_t refer = std::uint64_t{1} << 13;         // version 2
constexpr std::uint64_t truncate = std::uint64_t{1} << 14;      // version 3
constexpr std::uint64_t device_ioctl = std::uint64_t{1} << 15;  // version 5
constexpr std::uint64_t execute = std::uint64_t{1} << 0;
constexpr std::uint64_t make_char = std::uint64_t{1} << 6;
constexpr std::uint64_t make_block = std::uint64_t{1} << 11;

/// struct landlock_ruleset_attr of version 6.
struct RulesetAttributes {
  std::uint64_t file_system;
  std::uint64_t network;  // version 4: binding and connecting TCP
  std::uint64_t scoped;   // version 6: abstract sockets, signals
};

std::uint64_t rights_of(int version) {
  std::uint64_t rights = all_of_version_1;
  if (version >= 2) rights |= refer;
  if (version >= 3) rights |= truncate;
  if (version >= 5) rights |= device_ioctl;
  return rights;
}

}  // namespace

int restrict_by_landlock(int root, bool devices) {
  const auto version = static_cast<int>(
      ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION));
  if (version < 1) return 0;
  // Without the right to move files between directories (version 2) every such rename would fail.
  if (version < 2) return 0;
  RulesetAttributes attributes{rights_of(version), 0, 0};
  std::size_t size = sizeof attributes.file_system;
  if (version >= 4) {
    attributes.network = 3;
    size += sizeof attributes.network;
  }
  if (version >= 6) {
    attributes.scoped = 3;
    size += sizeof attributes.scoped;
  }
  const core::FileDescriptor ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, size, 0)));
  if (!ruleset) fail(errno);
  landlock_path_beneath_attr beneath{};
  beneath.parent_fd = root;
  beneath.allowed_access = attributes.file_system & ~(execute | device_ioctl);
  if (!devices) beneath.allowed_access &= ~(make_char | make_block);
  if (::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) !=
          0 ||
      ::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) {
    fail(errno);
  }
  return version;
}

}  // namespace cowfs::hostfs
