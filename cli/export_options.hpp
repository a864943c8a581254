// The options of `cowfs export -o`.
#pragma once

#include <string>
#include <vector>

#include "cli/mount_options.hpp"
#include "hostfs/options.hpp"

namespace cowfs::cli {

/// Parses lists of comma-separated options; later ones win. Looks users and groups up in the
/// system's databases. Throws UsageError, naming the option, also for those that contradict each
/// other.
[[nodiscard]] hostfs::ExportOptions parse_export_options(const std::vector<std::string>& lists,
                                                         GenericOptions generic);

/// "namespace", "chroot" or "none". Throws UsageError.
[[nodiscard]] hostfs::SandboxKind parse_sandbox(const std::string& name);

}  // namespace cowfs::cli
