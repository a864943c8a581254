#include "tests/support/memory_storage.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <system_error>

#include "cowcore/posix_storage.hpp"

namespace cowfs::tests {
namespace {

std::uint64_t next_inode() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

}  // namespace

class MemoryFile::Opened final : public core::Storage {
 public:
  explicit Opened(std::shared_ptr<MemoryFile> file) : file_(std::move(file)) {}

  [[nodiscard]] const std::string& name() const override { return file_->name_; }
  [[nodiscard]] core::FileStatus status() const override {
    core::FileStatus status;
    status.identity = {0, inode_};
    status.size = file_->size();
    status.allocated = file_->allocated();
    status.mode = S_IFREG | 0644;
    return status;
  }
  [[nodiscard]] core::SpaceStatus space() const override {
    static constexpr std::uint64_t plenty = std::uint64_t{1} << 50;
    return {plenty, plenty, plenty};
  }
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override {
    return file_->read(offset, into);
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    file_->write(offset, from);
  }
  void sync() override {}
  void punch(std::uint64_t offset, std::uint64_t length) override { file_->punch(offset, length); }
  void reserve(std::uint64_t /*offset*/, std::uint64_t /*length*/) override {}
  void resize(std::uint64_t size) override { file_->resize(size); }
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override {
    return file_->next_data(offset);
  }
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override {
    return file_->next_hole(offset);
  }
  [[nodiscard]] std::optional<core::Mapping> map(std::uint64_t /*offset*/,
                                                 std::size_t /*length*/) const override {
    return std::nullopt;
  }
  void lock(core::LockKind /*kind*/) override {}

 private:
  std::shared_ptr<MemoryFile> file_;
  std::uint64_t inode_ = next_inode();
};

std::shared_ptr<MemoryFile> MemoryFile::make(std::string name, std::uint64_t block_bytes) {
  return std::shared_ptr<MemoryFile>(new MemoryFile(std::move(name), block_bytes));
}

std::unique_ptr<core::Storage> MemoryFile::open() {
  return std::make_unique<Opened>(shared_from_this());
}

std::uint64_t MemoryFile::size() const {
  const std::shared_lock lock(mutex_);
  return size_;
}

std::uint64_t MemoryFile::allocated() const {
  const std::shared_lock lock(mutex_);
  return blocks_.size() * block_bytes_;
}

std::vector<std::byte> MemoryFile::content() const {
  std::vector<std::byte> bytes(size());
  read(0, bytes);
  return bytes;
}

std::shared_ptr<MemoryFile> MemoryFile::copy() const {
  auto other = make(name_, block_bytes_);
  const std::shared_lock lock(mutex_);
  other->size_ = size_;
  other->blocks_ = blocks_;
  return other;
}

/// Calls function(block number, offset in the block, offset in the range, length) for each block.
template <typename Function>
void MemoryFile::for_each_piece(std::uint64_t offset, std::uint64_t length,
                                Function&& function) const {
  for (std::uint64_t done = 0; done < length;) {
    const auto within = (offset + done) % block_bytes_;
    const auto piece = std::min(length - done, block_bytes_ - within);
    function((offset + done) / block_bytes_, within, done, piece);
    done += piece;
  }
}

std::size_t MemoryFile::read(std::uint64_t offset, std::span<std::byte> into) const {
  const std::shared_lock lock(mutex_);
  if (offset >= size_) return 0;
  const auto length = std::min<std::uint64_t>(into.size(), size_ - offset);
  for_each_piece(offset, length, [&](auto block, auto within, auto done, auto piece) {
    const auto found = blocks_.find(block);
    if (found == blocks_.end()) {
      std::memset(&into[done], 0, piece);
    } else {
      std::memcpy(&into[done], &found->second[within], piece);
    }
  });
  return length;
}

void MemoryFile::write(std::uint64_t offset, std::span<const std::byte> from) {
  const std::unique_lock lock(mutex_);
  for_each_piece(offset, from.size(), [&](auto block, auto within, auto done, auto piece) {
    auto& bytes = blocks_[block];
    bytes.resize(block_bytes_);
    std::memcpy(&bytes[within], &from[done], piece);
  });
  if (!from.empty()) size_ = std::max(size_, offset + from.size());
}

void MemoryFile::punch(std::uint64_t offset, std::uint64_t length) {
  const std::unique_lock lock(mutex_);
  for_each_piece(offset, length, [&](auto block, auto within, auto /*done*/, auto piece) {
    const auto found = blocks_.find(block);
    if (found == blocks_.end()) return;
    if (piece == block_bytes_) {
      blocks_.erase(found);
    } else {
      std::memset(&found->second[within], 0, piece);
    }
  });
}

void MemoryFile::resize(std::uint64_t size) {
  const std::unique_lock lock(mutex_);
  if (size < size_) {
    blocks_.erase(blocks_.lower_bound((size + block_bytes_ - 1) / block_bytes_), blocks_.end());
    const auto last = blocks_.find(size / block_bytes_);
    if (last != blocks_.end())
      std::ranges::fill(std::span(last->second).subspan(size % block_bytes_), std::byte{});
  }
  size_ = size;
}

std::optional<std::uint64_t> MemoryFile::next_data(std::uint64_t offset) const {
  const std::shared_lock lock(mutex_);
  const auto found = blocks_.lower_bound(offset / block_bytes_);
  if (found == blocks_.end()) return std::nullopt;
  const auto data = std::max(offset, found->first * block_bytes_);
  return data < size_ ? std::optional(data) : std::nullopt;
}

std::uint64_t MemoryFile::next_hole(std::uint64_t offset) const {
  const std::shared_lock lock(mutex_);
  if (offset >= size_) return offset;
  auto block = offset / block_bytes_;
  for (auto found = blocks_.find(block); found != blocks_.end() && found->first == block; ++found) {
    ++block;
  }
  return std::min(size_, std::max(offset, block * block_bytes_));
}

std::unique_ptr<core::Storage> open_mappable_memory(const std::string& name) {
  core::FileDescriptor fd(::memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!fd) throw std::system_error(errno, std::generic_category(), "memfd_create");
  return std::make_unique<core::PosixStorage>(std::move(fd), name);
}

}  // namespace cowfs::tests
