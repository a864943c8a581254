// Going on in the background once the work is under way.
#pragma once

#include <functional>
#include <iosfwd>

namespace cowfs::cli {

/// What `body` calls when it is ready to be left alone. Calls after the first do nothing.
using Ready = std::function<void()>;

/// Runs `body` in a process of its own, in a session of its own. Returns 0 as soon as `body` has
/// called its argument; from then on the process has no terminal and no standard streams. If `body`
/// returns before that, what it returned is returned here, and nothing is left behind.
/// Call it before there are threads; in the child it does not return.
int run_in_background(const std::function<int(const Ready&)>& body, std::ostream& err);

/// Makes the standard streams /dev/null, and the root the working directory.
void let_go_of_terminal();

}  // namespace cowfs::cli
