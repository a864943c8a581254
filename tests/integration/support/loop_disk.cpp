#include "tests/integration/support/loop_disk.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/process.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

void require(const std::vector<std::string>& command) {
  const auto outcome = run({.command = command});
  if (outcome.status != 0) throw std::runtime_error(command[0] + ": " + outcome.out + outcome.err);
}

}  // namespace

LoopDisk::LoopDisk(const fs::path& image, fs::path point) : point_(std::move(point)) {
  fs::create_directories(point_);
  require({"mount", "-t", "ext4", "-o", "loop", image.string(), point_.string()});
  mounted_ = true;
}

LoopDisk::~LoopDisk() {
  if (mounted_) ::umount2(point_.c_str(), MNT_DETACH);
}

void LoopDisk::unmount() {
  require({"umount", point_.string()});
  mounted_ = false;
}

void make_ext4(const fs::path& image, const std::string& options) {
  std::vector<std::string> command{"mkfs.ext4", "-q", "-F", "-m", "0"};
  std::istringstream words(options);
  for (std::string word; words >> word;) command.push_back(word);
  command.push_back(image.string());
  require(command);
}

void make_sparse_file(const fs::path& path, std::uint64_t size) {
  const auto file = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
    throw std::system_error(errno, std::generic_category(), path.string());
  }
}

void fill_disk(const fs::path& path) {
  const auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  std::uint64_t offset = 0;
  for (const std::size_t step : {std::size_t{1} << 20, std::size_t{4096}}) {
    const Bytes bytes(step, std::byte{1});
    int error = 0;
    while (error == 0) {
      error = error_of([&] { offset += write_at(file, offset, bytes); });
    }
    if (error != ENOSPC) throw std::system_error(error, std::generic_category(), path.string());
  }
  // What is only promised (delayed allocation) could still be refused later.
  sync_file(file);
}

}  // namespace cowfs::tests
