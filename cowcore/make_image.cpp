#include "cowcore/make_image.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <sstream>
#include <stdexcept>

#include "cowcore/errors.hpp"
#include "cowcore/run_program.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

struct Maker {
  const char* kind;
  const char* program;
  const char* package;  ///< of Debian
  std::vector<std::string> options;
};

const std::vector<Maker>& makers() {
  static const std::vector<Maker> all{
      {"ext2", "mkfs.ext2", "e2fsprogs", {"-q", "-F"}},
      {"ext3", "mkfs.ext3", "e2fsprogs", {"-q", "-F"}},
      {"ext4", "mkfs.ext4", "e2fsprogs", {"-q", "-F"}},
      {"xfs", "mkfs.xfs", "xfsprogs", {"-q", "-f"}},
      {"btrfs", "mkfs.btrfs", "btrfs-progs", {"-q", "-f"}},
      {"swap", "mkswap", "util-linux", {}},
  };
  return all;
}

const Maker& maker_of(const std::string& kind) {
  const auto found = std::ranges::find(makers(), kind, &Maker::kind);
  if (found == makers().end()) throw std::invalid_argument(kind);
  return *found;
}

std::string first_line(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t") != std::string::npos) return line;
  }
  return "it says nothing";
}

}  // namespace

const std::vector<std::string>& image_kinds() {
  static const std::vector<std::string> kinds = [] {
    std::vector<std::string> names;
    for (const auto& maker : makers()) names.emplace_back(maker.kind);
    return names;
  }();
  return kinds;
}

void make_image(const std::string& kind, std::uint64_t size, const fs::path& file,
                IfExists if_exists, const Progress& progress) {
  const auto& maker = maker_of(kind);
  const auto program = find_program(maker.program);
  if (!program) {
    throw Error(file.string(), fmt::format("{} is not installed", maker.program),
                fmt::format("install the package {}", maker.package));
  }
  const auto place = choose_output(file, if_exists, {});
  NewFile image(place.file, 0666, Naming::temporary);
  image.file().resize(size);
  auto arguments = maker.options;
  arguments.push_back(image.temporary_path().string());
  const auto result = run_program(*program, arguments, [&] { report(progress, 0, size); });
  if (result.status != 0) {
    throw Error(file.string(),
                fmt::format("{} has failed: {}", maker.program, first_line(result.output)));
  }
  image.file().sync();
  image.publish(if_exists);
}

}  // namespace cowfs::core
