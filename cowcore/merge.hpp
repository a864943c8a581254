// Making one plain image of a COW and its backing.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/progress.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

struct MergeOptions {
  /// Instead of the one that the header names; it has to match.
  std::optional<boost::filesystem::path> backing;
  IfExists if_exists = IfExists::refuse;  ///< `replace`: any regular file that nobody uses
  Progress progress;
};

struct MergeResult {
  std::uint64_t size = 0;  ///< of the output, bytes
  std::uint64_t backing_size = 0;
  /// The COW holds something past the backing's end, in the last sector: so the output has whole
  /// sectors, and is longer than the backing.
  bool rounded_up = false;
  std::vector<std::string> notices;  ///< lines that the user should see
};

/// Writes the merged image of `cow` to the new file `output`: as long as the backing, a hole where
/// the merged image has one, the blocks shared with COW and backing where the file system can. COW
/// and backing are locked against writers meanwhile. The output has the COW's mode less the umask,
/// as a copy by cp(1) has; one that is replaced passes on its mode and, where we may, its owner.
///
/// The output appears under its name when all of it is on disk; after an error or Cancelled there
/// is nothing, and a file that was to be replaced is unchanged. Memory: under 1 MiB.
///
/// Throws Error if the output is the COW or the backing, by whatever name, or exists and is not to
/// be replaced; what open_cow throws; std::system_error; and what the progress function throws.
[[nodiscard]] MergeResult merge_cow(const boost::filesystem::path& cow,
                                    const boost::filesystem::path& output,
                                    const MergeOptions& options);

/// The size of the merged image as a plain file: the backing's own, or whole sectors if the COW
/// holds something other than zeros past that.
[[nodiscard]] std::uint64_t plain_size(const Storage& cow, const CowLayout& layout);

/// What merge_cow does to the file before it gets its name: writes the first `size` bytes (by
/// plain_size) of the merged image into an empty file. Does not sync.
void write_merged(const Storage& cow, const Storage& backing, const CowLayout& layout,
                  Storage& output, std::uint64_t size, const Progress& progress);

}  // namespace cowfs::core
