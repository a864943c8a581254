#include "hostfs/file_locks.hpp"

#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {
namespace {

bool is_conflict(int error) { return error == EAGAIN || error == EACCES; }

}  // namespace

struct flock host_lock(const fuse_file_lock& lock) {
  constexpr auto last = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  if (lock.start > last || lock.end < lock.start) fail(EINVAL);
  if (lock.type != F_RDLCK && lock.type != F_WRLCK && lock.type != F_UNLCK) fail(EINVAL);
  struct flock host {};
  host.l_type = static_cast<short>(lock.type);
  host.l_whence = SEEK_SET;
  host.l_start = static_cast<off_t>(lock.start);
  // "To the end" is the last offset there, and a length of 0 here.
  host.l_len = lock.end >= last ? 0 : static_cast<off_t>(lock.end - lock.start + 1);
  return host;
}

FileLocks::FileLocks(std::uint32_t limit, Answer answer)
    : limit_(limit), answer_(std::move(answer)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
}

FileLocks::~FileLocks() {
  thread_.request_stop();
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<const FileLocks::Held> FileLocks::held_by(const Owner& owner, std::uint32_t pid,
                                                          const OpenFile& open) {
  {
    const std::lock_guard guard(mutex_);
    if (const auto found = held_.find(owner); found != held_.end()) return found->second;
    if (held_.size() >= limit_) fail(ENOLCK);
  }
  auto made = std::make_shared<const Held>(Held{open(), pid});
  const std::lock_guard guard(mutex_);
  return held_.try_emplace(owner, std::move(made)).first->second;
}

FileLocks::Outcome FileLocks::set(const Owner& owner, std::uint32_t pid, const struct flock& lock,
                                  bool wait, std::uint64_t unique, const OpenFile& open) {
  if (lock.l_type == F_UNLCK) {
    const std::lock_guard guard(mutex_);
    const auto found = held_.find(owner);
    if (found == held_.end()) return Outcome::done;
    auto wanted = lock;
    if (::fcntl(found->second->fd.get(), F_OFD_SETLK, &wanted) != 0) fail(errno);
    ++given_up_;
    changed_.notify_all();
    return Outcome::done;
  }
  auto held = held_by(owner, pid, open);
  auto wanted = lock;
  if (::fcntl(held->fd.get(), F_OFD_SETLK, &wanted) == 0) {
    // A read lock in the place of a write lock lets others in as well.
    const std::lock_guard guard(mutex_);
    ++given_up_;
    changed_.notify_all();
    return Outcome::done;
  }
  if (!is_conflict(errno)) fail(errno);
  if (!wait) return Outcome::would_wait;
  return put_aside({unique, std::move(held), {}, lock, 0, owner.node});
}

struct flock FileLocks::test(const Owner& owner, const struct flock& lock, const OpenFile& open) {
  std::shared_ptr<const Held> held;
  {
    const std::lock_guard guard(mutex_);
    if (const auto found = held_.find(owner); found != held_.end()) held = found->second;
  }
  if (!held) held = std::make_shared<const Held>(Held{open(), 0});
  auto wanted = lock;
  wanted.l_pid = 0;
  if (::fcntl(held->fd.get(), F_OFD_GETLK, &wanted) != 0) fail(errno);
  if (wanted.l_type == F_UNLCK || wanted.l_pid > 0) return wanted;
  // Not a process's lock, so perhaps one of ours. With one other owner it is known whose.
  wanted.l_pid = 0;
  const std::lock_guard guard(mutex_);
  int others = 0;
  for (auto at = held_.lower_bound({owner.node, 0});
       at != held_.end() && at->first.node == owner.node; ++at) {
    if (at->first == owner) continue;
    wanted.l_pid = ++others == 1 ? static_cast<pid_t>(at->second->pid) : 0;
  }
  return wanted;
}

FileLocks::Outcome FileLocks::set_whole(int file, int operation, bool wait, std::uint64_t unique) {
  if (::flock(file, operation | LOCK_NB) == 0) {
    const std::lock_guard guard(mutex_);
    ++given_up_;
    changed_.notify_all();
    return Outcome::done;
  }
  if (errno != EWOULDBLOCK) fail(errno);
  if (!wait) return Outcome::would_wait;
  core::FileDescriptor copy(::fcntl(file, F_DUPFD_CLOEXEC, 0));
  if (!copy) fail(errno);
  return put_aside({unique, nullptr, std::move(copy), {}, operation, 0});
}

FileLocks::Outcome FileLocks::put_aside(Waiting waiting) {
  const std::lock_guard guard(mutex_);
  if (was_interrupted(waiting.unique)) fail(EINTR);
  if (waiting_.size() >= limit_) fail(ENOLCK);
  waiting_.push_back(std::move(waiting));
  ++given_up_;  // it may have been given up since it was tried
  changed_.notify_all();
  return Outcome::waits;
}

bool FileLocks::was_interrupted(std::uint64_t unique) {
  const auto found = std::ranges::find(early_interrupts_, unique);
  if (found == early_interrupts_.end()) return false;
  *found = 0;
  return true;
}

void FileLocks::drop(const Owner& owner) {
  std::shared_ptr<const Held> closed_without_lock;
  const std::lock_guard guard(mutex_);
  const auto found = held_.find(owner);
  if (found == held_.end()) return;
  closed_without_lock = std::move(found->second);
  held_.erase(found);
  ++given_up_;
  changed_.notify_all();
}

void FileLocks::retry() {
  const std::lock_guard guard(mutex_);
  if (waiting_.empty()) return;
  ++given_up_;
  changed_.notify_all();
}

void FileLocks::drop_node(std::uint64_t node) {
  std::vector<std::shared_ptr<const Held>> closed_without_lock;
  const std::lock_guard guard(mutex_);
  auto at = held_.lower_bound({node, 0});
  while (at != held_.end() && at->first.node == node) {
    closed_without_lock.push_back(std::move(at->second));
    at = held_.erase(at);
  }
  if (closed_without_lock.empty()) return;
  ++given_up_;
  changed_.notify_all();
}

void FileLocks::interrupt(std::uint64_t unique) {
  {
    const std::lock_guard guard(mutex_);
    const auto found = std::ranges::find(waiting_, unique, &Waiting::unique);
    if (found == waiting_.end()) {
      early_interrupts_[next_early_++ % early_interrupts_.size()] = unique;
      return;
    }
    waiting_.erase(found);
  }
  answer_(unique, EINTR);
}

void FileLocks::try_all() {
  std::vector<std::pair<std::uint64_t, int>> answers;
  {
    const std::lock_guard guard(mutex_);
    std::erase_if(waiting_, [&](Waiting& waiting) {
      int result = 0;
      if (waiting.held) {
        auto wanted = waiting.lock;
        result = ::fcntl(waiting.held->fd.get(), F_OFD_SETLK, &wanted);
      } else {
        result = ::flock(waiting.file.get(), waiting.operation | LOCK_NB);
      }
      const int error = result == 0 ? 0 : errno;
      if (is_conflict(error)) return false;
      answers.emplace_back(waiting.unique, error);
      return true;
    });
  }
  for (const auto& [unique, error] : answers) answer_(unique, error);
}

void FileLocks::work(const std::stop_token& stop) {
  auto pause = shortest_pause;
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const auto seen = given_up_;
    const auto changed = [&] { return given_up_ != seen; };
    if (waiting_.empty()) {
      changed_.wait(lock, stop, changed);
    } else if (changed_.wait_for(lock, stop, pause, changed)) {
      pause = shortest_pause;
    } else {
      pause = std::min(pause * 2, longest_pause);
    }
    lock.unlock();
    try_all();
    lock.lock();
  }
}

}  // namespace cowfs::hostfs
