#include "tests/support/temporary_directory.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <memory>
#include <system_error>

#include "cowcore/file_descriptor.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::tests {

namespace fs = boost::filesystem;

TemporaryDirectory::TemporaryDirectory()
    : path_(fs::canonical(COWFS_TEST_DIRECTORY) / fs::unique_path("%%%%-%%%%-%%%%")) {
  fs::create_directories(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  boost::system::error_code ignored;
  fs::remove_all(path_, ignored);
}

WorkingDirectory::WorkingDirectory(const fs::path& path) : before_(fs::current_path()) {
  fs::current_path(path);
}

WorkingDirectory::~WorkingDirectory() {
  boost::system::error_code ignored;
  fs::current_path(before_, ignored);
}

std::vector<std::byte> read_file(const fs::path& path) {
  const auto file =
      core::PosixStorage::open(path, core::Access::read_only, core::FileKinds::regular);
  std::vector<std::byte> bytes(file->status().size);
  bytes.resize(file->read(0, bytes));
  return bytes;
}

void write_file(const fs::path& path, std::span<const std::byte> bytes) {
  core::FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) throw std::system_error(errno, std::generic_category(), path.string());
  core::PosixStorage(std::move(fd), path.string()).write(0, bytes);
}

void write_file(const fs::path& path, const std::string& text) {
  write_file(path, std::as_bytes(std::span(text)));
}

void set_mtime(const fs::path& path, std::int64_t seconds) {
  const timespec times[2] = {{seconds, 0}, {seconds, 0}};
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) != 0) {
    throw std::system_error(errno, std::generic_category(), path.string());
  }
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace cowfs::tests
