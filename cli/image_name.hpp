// How a COW and its backing are named on the command line.
#pragma once

#include <boost/filesystem/path.hpp>
#include <optional>
#include <string>
#include <utility>

namespace cowfs::cli {

/// Splits COW[,BACKING]. As UML takes it: the first comma ends the COW's name.
[[nodiscard]] std::pair<boost::filesystem::path, std::optional<boost::filesystem::path>>
split_image(const std::string& image);

}  // namespace cowfs::cli
