// The process that serves an export from inside of its jail.
#pragma once

#include <boost/filesystem/path.hpp>

#include "hostfs/options.hpp"

namespace cowfs::hostfs {

struct WorkerOptions {
  ExportOptions options;
  boost::filesystem::path directory;  ///< absolute, without links
  boost::filesystem::path hidden;     ///< a directory that is not to be seen; may be empty
  std::int32_t daemon = 0;            ///< the process outside
};

/// Makes the jail, then serves until the mount is gone. The descriptors are those of
/// WorkerDescriptors. Tells the process outside what happens, also why it could not start; returns
/// an exit status.
[[nodiscard]] int run_worker(const WorkerOptions& worker);

}  // namespace cowfs::hostfs
