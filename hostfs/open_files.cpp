#include "hostfs/open_files.hpp"

#include <cerrno>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {

void OpenFiles::require_room() {
  const std::lock_guard guard(mutex_);
  if (files_.is_full()) fail(ENFILE);
}

std::uint64_t OpenFiles::add(OpenFile file) {
  const std::lock_guard guard(mutex_);
  const auto handle = files_.insert(std::move(file));
  if (handle == 0) fail(ENFILE);
  return handle;
}

OpenFiles::Pin OpenFiles::pin(std::uint64_t handle, std::uint64_t node, bool directory) {
  const std::lock_guard guard(mutex_);
  auto* file = files_.find(handle);
  if (file == nullptr || file->released || file->node != node || file->directory != directory) {
    fail(EBADF);
  }
  ++file->pins;
  return {*this, static_cast<std::uint32_t>(handle), *file};
}

void OpenFiles::unpin(std::uint32_t index) {
  OpenFile closed_without_lock;
  const std::lock_guard guard(mutex_);
  auto& file = files_.at(index);
  if (--file.pins == 0 && file.released) closed_without_lock = files_.remove(index);
}

bool OpenFiles::release(std::uint64_t handle) {
  OpenFile closed_without_lock;
  const std::lock_guard guard(mutex_);
  auto* file = files_.find(handle);
  if (file == nullptr || file->released) return false;
  file->released = true;
  if (file->pins == 0) closed_without_lock = files_.remove(static_cast<std::uint32_t>(handle));
  return true;
}

std::uint32_t OpenFiles::size() {
  const std::lock_guard guard(mutex_);
  return files_.size();
}

}  // namespace cowfs::hostfs
