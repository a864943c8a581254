#include "tests/integration/support/file_io.hpp"

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

namespace cowfs::tests {
namespace {

[[noreturn]] void fail(const std::string& action) {
  throw std::system_error(errno, std::generic_category(), action);
}

void require(bool done, const char* action) {
  if (!done) fail(action);
}

}  // namespace

core::FileDescriptor open_file(const boost::filesystem::path& path, int flags) {
  core::FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!file) fail(path.string());
  return file;
}

Bytes read_at(const core::FileDescriptor& file, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, std::byte{0xa5});
  const auto count = ::pread(file.get(), bytes.data(), length, static_cast<off_t>(offset));
  require(count >= 0, "pread");
  bytes.resize(static_cast<std::size_t>(count));
  return bytes;
}

std::size_t write_at(const core::FileDescriptor& file, std::uint64_t offset,
                     std::span<const std::byte> bytes) {
  const auto count = ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
  require(count >= 0, "pwrite");
  return static_cast<std::size_t>(count);
}

void allocate(const core::FileDescriptor& file, int mode, std::uint64_t offset,
              std::uint64_t length) {
  require(
      ::fallocate(file.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0,
      "fallocate");
}

void sync_file(const core::FileDescriptor& file) { require(::fsync(file.get()) == 0, "fsync"); }

void sync_data(const core::FileDescriptor& file) {
  require(::fdatasync(file.get()) == 0, "fdatasync");
}

std::uint64_t seek(const core::FileDescriptor& file, std::uint64_t offset, int whence) {
  const auto found = ::lseek(file.get(), static_cast<off_t>(offset), whence);
  require(found >= 0, "lseek");
  return static_cast<std::uint64_t>(found);
}

struct stat status_of(const boost::filesystem::path& path) {
  struct stat status {};
  require(::stat(path.c_str(), &status) == 0, "stat");
  return status;
}

struct stat status_of(const core::FileDescriptor& file) {
  struct stat status {};
  require(::fstat(file.get(), &status) == 0, "fstat");
  return status;
}

MappedFile::MappedFile(const core::FileDescriptor& file, std::size_t length, int protection,
                       int flags)
    : length_(length) {
  void* data = ::mmap(nullptr, length, protection, flags, file.get(), 0);
  require(data != MAP_FAILED, "mmap");
  data_ = static_cast<std::byte*>(data);
}

MappedFile::~MappedFile() { ::munmap(data_, length_); }

void MappedFile::sync() const { require(::msync(data_, length_, MS_SYNC) == 0, "msync"); }

std::uint64_t MappedFile::resident() const {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((length_ + page - 1) / page);
  require(::mincore(data_, length_, pages.data()) == 0, "mincore");
  return page * static_cast<std::uint64_t>(
                    std::ranges::count_if(pages, [](auto flags) { return (flags & 1) != 0; }));
}

std::uint64_t resident_bytes(const boost::filesystem::path& path) {
  const auto file = open_file(path, O_RDONLY);
  const auto size = static_cast<std::size_t>(status_of(file).st_size);
  return MappedFile(file, size, PROT_READ, MAP_PRIVATE).resident();
}

bool kernel_is_at_least(unsigned major, unsigned minor) {
  utsname name{};
  unsigned present_major = 0;
  unsigned present_minor = 0;
  require(::uname(&name) == 0, "uname");
  const int fields = std::sscanf(name.release, "%u.%u", &present_major, &present_minor);
  return fields == 2 && std::pair(present_major, present_minor) >= std::pair(major, minor);
}

}  // namespace cowfs::tests
