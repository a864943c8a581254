#include "cowcore/reset_cow.hpp"

#include <fmt/format.h>

#include <boost/filesystem.hpp>

#include "cowcore/errors.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/open_cow.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

std::vector<std::string> reset_cow(const fs::path& cow, const std::optional<fs::path>& backing) {
  auto opened = open_cow(cow, backing, Access::read_write);
  if (opened.access == Access::read_only) {
    throw Error(cow.string(), "may not be written", "make it writable first");
  }
  const auto file = fs::canonical(cow);
  if (const auto names = fs::hard_link_count(file); names != 1) {
    throw Error(cow.string(),
                fmt::format("has {} names, and the others would keep its content", names),
                "remove these first");
  }
  NewFile made(file, 0600);
  made.file().write(0, serialize_header(opened.header));
  made.file().resize(opened.layout.data_offset + opened.layout.backing_size);
  made.imitate(opened.cow->status());
  made.file().sync();
  made.publish(IfExists::replace);
  return std::move(opened.notices);
}

}  // namespace cowfs::core
