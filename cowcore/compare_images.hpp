// Whether two images hold the same.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/progress.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// An image to compare: a COW with its backing, or raw bytes. Locked for reading while it is here.
struct ComparedImage {
  std::unique_ptr<Storage> cow;  ///< none: `backing` is all of the image
  std::unique_ptr<Storage> backing;
  CowLayout layout;  ///< if there is a COW
  std::uint64_t size = 0;
  std::vector<std::string> notices = {};  ///< as those of open_cow
};

/// What an image's file is taken for.
enum class ImageKind {
  by_content,  ///< a COW if it begins as one
  raw,
};

/// Opens a COW, merged with its backing, or a raw image: a regular file or a block device. Gives a
/// damaged COW never out as a raw image. Throws as open_cow.
[[nodiscard]] ComparedImage open_compared(
    const boost::filesystem::path& file, const std::optional<boost::filesystem::path>& backing,
    ImageKind kind = ImageKind::by_content,
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

struct Comparison {
  std::optional<std::uint64_t> first_difference;  ///< byte; nothing if there is none
  std::uint64_t bytes_read = 0;                   ///< of both images together
};

/// Compares two images; where one is longer, the rest of it with zeros. Stops at the first
/// difference.
///
/// What both take from the same place of the same file is not looked at, and holes are not read: so
/// for two COWs of one backing this takes time for what the COWs hold. Memory is the same for
/// every size. Reports bytes of the image. Throws std::system_error, Cancelled.
[[nodiscard]] Comparison compare_images(const ComparedImage& a, const ComparedImage& b,
                                        const Progress& progress = {});

}  // namespace cowfs::core
