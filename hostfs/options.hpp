// What an export is to do; `cowfs export -o` and --sandbox say it.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hostfs/id_map.hpp"
#include "hostfs/names.hpp"

namespace cowfs::hostfs {

/// As whom the daemon works, in full: it has no way back.
struct Account {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  ///< supplementary ones
};

/// Whose requests are done as `anonymous` on the host, with the rights of that user only.
enum class Squash {
  none,
  root,  ///< requests of user 0
  all,
};

/// Where modes, owners and device numbers are kept.
enum class MetadataPolicy {
  host,   ///< they are the host's
  xattr,  ///< in user.cowfs.metadata, for what the daemon's user can't set on the host
};

enum class SymlinkPolicy {
  keep,    ///< as they are
  inside,  ///< absolute ones as seen from the export's root; none that lead out of it
  refuse,  ///< none can be made, none can be read
};

enum class CachePolicy {
  automatic,  ///< data while the file is unchanged, attributes and names for `timeout`
  always,     ///< nobody else changes the files
  never,
};

enum class SandboxKind { jail, chroot, none };

struct ExportOptions {
  bool read_only = false;
  bool allow_other = false;
  std::optional<Account> as;
  IdMap users;
  IdMap groups;
  Squash squash = Squash::none;
  uid_t anonymous_user = 65534;
  gid_t anonymous_group = 65534;
  MetadataPolicy metadata = MetadataPolicy::host;
  SymlinkPolicy symlinks = SymlinkPolicy::keep;
  bool submounts = false;
  bool devices = false;
  XattrPolicy xattrs = XattrPolicy::user;
  CachePolicy cache = CachePolicy::automatic;
  double timeout = 1.0;          ///< seconds that the kernel may believe names and attributes
  bool passthrough = true;       ///< file data past the daemon, where the kernel can
  std::uint32_t max_inodes = 0;  ///< 0: as many as the limit on descriptors allows
  std::uint32_t max_open = 0;    ///< 0: the same
  unsigned threads = 0;          ///< 0: chosen by the number of processors
  SandboxKind sandbox = SandboxKind::jail;
};

}  // namespace cowfs::hostfs
