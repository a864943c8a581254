// Storage in a file or block device of the operating system.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>
#include <string>

#include "cowcore/file_descriptor.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

enum class Access { read_only, read_write };

/// What kinds of file an open accepts. Anything else (FIFO, directory, character device) is refused
/// without being opened, so that no open ever hangs or has a side effect.
enum class FileKinds { regular, regular_or_block };

/// Storage on a file descriptor. Whole or error: EINTR and short transfers are dealt with here.
class PosixStorage final : public Storage {
 public:
  /// Opens an existing file. Throws std::system_error, or Error for a kind that is not accepted.
  static std::unique_ptr<PosixStorage> open(const boost::filesystem::path& path, Access access,
                                            FileKinds kinds);

  /// Takes over an open descriptor.
  PosixStorage(FileDescriptor fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  [[nodiscard]] int descriptor() const { return fd_.get(); }

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] FileStatus status() const override;
  [[nodiscard]] SpaceStatus space() const override;
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;
  void sync() override;
  void begin_sync(std::uint64_t offset, std::uint64_t length) override;
  void punch(std::uint64_t offset, std::uint64_t length) override;
  void reserve(std::uint64_t offset, std::uint64_t length) override;
  void resize(std::uint64_t size) override;
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override;
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override;
  std::uint64_t clone_from(const Storage& from, std::uint64_t from_offset, std::uint64_t to_offset,
                           std::uint64_t length) override;
  [[nodiscard]] std::optional<Mapping> map(std::uint64_t offset, std::size_t length) const override;
  void prefetch(std::uint64_t offset, std::uint64_t length) const override;
  void lock(LockKind kind) override;

 private:
  [[noreturn]] void fail(int error, const char* action) const;
  void write_zeros(std::uint64_t offset, std::uint64_t length);

  FileDescriptor fd_;
  std::string name_;
};

}  // namespace cowfs::core
