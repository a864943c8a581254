#include "cli/image_name.hpp"

namespace cowfs::cli {

namespace fs = boost::filesystem;

std::pair<fs::path, std::optional<fs::path>> split_image(const std::string& image) {
  const auto comma = image.find(',');
  if (comma == std::string::npos) return {image, std::nullopt};
  return {image.substr(0, comma), image.substr(comma + 1)};
}

}  // namespace cowfs::cli
