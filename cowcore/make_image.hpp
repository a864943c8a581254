// Making an image with an empty file system in it.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "cowcore/new_file.hpp"
#include "cowcore/progress.hpp"

namespace cowfs::core {

/// "ext2", "ext3", "ext4", "xfs", "btrfs", "swap".
[[nodiscard]] const std::vector<std::string>& image_kinds();

/// Makes a sparse image of `size` bytes, a multiple of 512, by the system's own program for one of
/// image_kinds(), and syncs it. The file appears under its name only when it is whole.
///
/// `progress` can only cancel: how far such a program is, nobody knows. Throws Error (the program
/// is missing, or has failed), Cancelled, Busy, std::system_error; then nothing is left behind.
void make_image(const std::string& kind, std::uint64_t size, const boost::filesystem::path& file,
                IfExists if_exists, const Progress& progress = {});

}  // namespace cowfs::core
