// Files in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "cowcore/storage.hpp"

namespace cowfs::tests {

/// A sparse file in memory. It outlives the storages that open it, as a file on disk does.
///
/// A read or write is atomic: it sees or makes all of another one or nothing of it. Blocks that
/// were never written, or were punched, are holes. Thread safety: every function, also of the
/// storages, may be called from several threads at once.
class MemoryFile : public std::enable_shared_from_this<MemoryFile> {
 public:
  static std::shared_ptr<MemoryFile> make(std::string name, std::uint64_t block_bytes = 4096);

  /// A storage on this file, which it keeps alive. It can't be mapped, and its lock is no lock.
  [[nodiscard]] std::unique_ptr<core::Storage> open();

  [[nodiscard]] std::uint64_t size() const;
  /// All of the file, with zeros for the holes.
  [[nodiscard]] std::vector<std::byte> content() const;
  /// A new file with the same content and holes.
  [[nodiscard]] std::shared_ptr<MemoryFile> copy() const;

 private:
  class Opened;
  using Block = std::vector<std::byte>;

  MemoryFile(std::string name, std::uint64_t block_bytes)
      : name_(std::move(name)), block_bytes_(block_bytes) {}

  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const;
  void write(std::uint64_t offset, std::span<const std::byte> from);
  void punch(std::uint64_t offset, std::uint64_t length);
  void resize(std::uint64_t size);
  [[nodiscard]] std::uint64_t allocated() const;
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const;
  template <typename Function>
  void for_each_piece(std::uint64_t offset, std::uint64_t length, Function&& function) const;

  const std::string name_;
  const std::uint64_t block_bytes_;
  mutable std::shared_mutex mutex_;  // guards all below
  std::uint64_t size_ = 0;
  std::map<std::uint64_t, Block> blocks_;  // by their number; what is missing is a hole
};

/// A file in memory that the kernel keeps (memfd), so that it can be mapped, and has its holes
/// where a tmpfs has them.
[[nodiscard]] std::unique_ptr<core::Storage> open_mappable_memory(const std::string& name);

}  // namespace cowfs::tests
