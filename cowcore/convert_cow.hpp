// Making a V3 COW of something else.
#pragma once

#include <boost/filesystem/path.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/new_file.hpp"
#include "cowcore/progress.hpp"
#include "cowcore/sector.hpp"

namespace cowfs::core {

struct ConvertOptions {
  IfExists if_exists = IfExists::refuse;  ///< `replace`: any regular file that nobody uses
  Progress progress;
};

struct ConvertResult {
  SectorCount sectors_in_cow = 0;
  std::vector<std::string> notices;  ///< lines that the user should see
};

// Both make a new file, which appears under its name when all of it is on disk; after an error or
// Cancelled there is nothing, and a file that was to be replaced is unchanged. It has the source's
// mode less the umask, or mode and owner of what it replaces. Memory: under 1 MiB. They throw Error
// if the output is one of the inputs, by whatever name, or exists and is not to be replaced; Busy,
// std::system_error, and what the progress function throws.

/// Makes a V3 COW with the content of a COW of any layout. All its sectors have a bit. With
/// `backing` given, that is used, and named by the new COW, instead of the one in the header; it
/// has to match. Throws also DamagedCow and BackingMismatch.
[[nodiscard]] ConvertResult convert_cow(const boost::filesystem::path& cow,
                                        const std::optional<boost::filesystem::path>& backing,
                                        const boost::filesystem::path& output,
                                        const ConvertOptions& options);

/// Makes the smallest COW whose merged image on `backing` is the plain image `image`: only pages
/// (page_bytes) that differ are in it. The image has to have the backing's size, or that rounded up
/// to whole sectors; and it must not be a COW itself.
[[nodiscard]] ConvertResult make_smallest_cow(const boost::filesystem::path& image,
                                              const boost::filesystem::path& backing,
                                              const boost::filesystem::path& output,
                                              const ConvertOptions& options);

}  // namespace cowfs::core
