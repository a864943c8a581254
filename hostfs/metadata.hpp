// Modes, owners and device numbers that the daemon's user can't set on the host, kept in an
// extended attribute: with metadata=xattr a guest's root can unpack a system tree without being
// root on the host.
//
// The host's file is a regular file of mode 0600, or a directory of mode 0700, of the daemon's
// user. Its attribute says what the guest sees. A symbolic link is a regular file with the link's
// text; device nodes, FIFOs and sockets are empty ones: on the host there is nothing to follow and
// nothing to open. The attribute can't be read or set through the export.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cowfs::hostfs {

struct Metadata {
  mode_t mode = 0;  ///< with S_IFMT
  uid_t uid = 0;    ///< as the export shows it, as `gid`
  gid_t gid = 0;
  std::uint32_t device = 0;  ///< st_rdev in the kernel's 32-bit form, as FUSE has it
  bool operator==(const Metadata&) const = default;
};

inline constexpr const char* metadata_xattr = "user.cowfs.metadata";

/// "1 MODE UID GID DEVICE": the version, the mode in octal, the rest in decimal. getfattr shows it.
[[nodiscard]] std::string encode_metadata(const Metadata& metadata);
/// Nothing if it is no such text.
[[nodiscard]] std::optional<Metadata> decode_metadata(std::string_view text);

/// Whether a host file of type `host` (S_IFMT) may show itself as `shown`: a directory is one on
/// both sides, and whatever else there is lies in a regular file.
[[nodiscard]] bool may_stand_for(mode_t host, mode_t shown);

/// The number of a device as a message has it, and back.
[[nodiscard]] std::uint32_t message_device(dev_t device);
[[nodiscard]] dev_t host_device(std::uint32_t device);

}  // namespace cowfs::hostfs
