// The options of `cowfs mount -o`.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "fuse/image_file_system.hpp"

namespace cowfs::cli {

struct ImageMountOptions {
  bool read_only = false;
  bool allow_other = false;
  fuse::CachePolicy cache;
  std::chrono::seconds commit{5};     ///< 0: flush only when asked
  std::chrono::seconds watchdog{30};  ///< 0: never
  fuse::BackingChange backing_change = fuse::BackingChange::stop;
  bool pending = true;   ///< keep pending bits in a file, for a daemon that is killed
  unsigned threads = 0;  ///< 0: chosen by the number of processors
};

/// Options that concern mount(8) and fstab rather than a file system.
enum class GenericOptions { refuse, ignore };

/// Parses lists of comma-separated options; later ones win. Throws UsageError, naming the option.
[[nodiscard]] ImageMountOptions parse_mount_options(const std::vector<std::string>& lists,
                                                    GenericOptions generic);

/// "64K", "16M", "1G", "4096": bytes. Throws UsageError.
[[nodiscard]] std::uint64_t parse_size(const std::string& text);

}  // namespace cowfs::cli
