// What the other end may call a file.
#pragma once

#include <string>
#include <string_view>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {

inline constexpr std::size_t longest_name = 255;

/// The one name in a directory that `text` is. It is a single component: it can't be "." or "..",
/// be empty, hold a '/' or be longer than 255 bytes; anything else throws EINVAL or ENAMETOOLONG.
/// Returns a NUL-terminated string, for a text that MessageReader took.
[[nodiscard]] inline const char* checked_name(std::string_view text) {
  if (text.size() > longest_name) fail(ENAMETOOLONG);
  if (text.empty() || text == "." || text == "..") fail(EINVAL);
  if (text.find('/') != std::string_view::npos || text.find('\0') != std::string_view::npos) {
    fail(EINVAL);
  }
  return text.data();
}

/// Extended attributes that belong to the export itself.
inline constexpr std::string_view own_xattr_prefix = "user.cowfs.";

/// Which extended attributes an export shows and sets.
enum class XattrPolicy {
  none,
  user,  ///< "user.*"
  acl,   ///< "user.*", and POSIX ACLs, which are honoured
};

/// Whether the attribute can be reached through an export. Never "user.cowfs.*", "trusted.*",
/// "security.*".
[[nodiscard]] bool is_permitted_xattr(std::string_view name, XattrPolicy policy);

/// Leaves in a list of NUL-terminated names, as listxattr(2) gives it, those that are permitted.
[[nodiscard]] std::string permitted_xattrs(std::string_view list, XattrPolicy policy);

/// Whether a relative link text, read in a directory that lies `depth` directories below the
/// export's root, stays inside whatever the names in it are. So ".." may only come first: a name
/// before it could be that of another link, and what is above that link's goal may be anywhere.
[[nodiscard]] bool stays_inside(std::string_view target, std::size_t depth);

/// Absolute links, for symlinks=inside: the host's text `target` as seen from the export's root
/// `root` (an absolute path without "." and ".."), "/" for the root itself. Throws EPERM if it
/// leads out.
[[nodiscard]] std::string seen_from_root(std::string_view target, std::string_view root);

/// The reverse: the host's text for an absolute link of the export. Throws EPERM if it leads out.
[[nodiscard]] std::string seen_from_host(std::string_view target, std::string_view root);

}  // namespace cowfs::hostfs
