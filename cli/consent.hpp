// Asking the user before something that can't be undone.
#pragma once

#include <string>

#include "cli/command.hpp"

namespace cowfs::cli {

/// Returns if the user agrees. Prints "cowfs: FILE: CONSEQUENCE" to streams.err in any case. With
/// `yes` (from --yes) that is all. Otherwise asks, where standard input and standard error are a
/// terminal, and throws core::Error if the answer is not yes; elsewhere throws UsageError, which
/// names --yes.
void ask_or_require_yes(const Streams& streams, bool yes, const std::string& file,
                        const std::string& consequence);

}  // namespace cowfs::cli
