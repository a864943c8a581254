// POSIX locks that hold against everybody who uses the directory: other exports of it, and programs
// on the host.
//
// The host's own locks do it. Each owner of locks on a file (the kernel's name for a process, as
// far as locks go) gets an open file of its own, and its locks are that file's (F_OFD_SETLK): so
// two owners conflict, one owner does not conflict with itself, and closing the file drops them
// all, as POSIX has it when a process closes a file. (flock(2) needs nothing of the kind: a handle
// is an open file already.)
//
// A call that waits must not keep a thread that serves. It is tried; if it would wait it is put
// aside, and one thread tries all that are aside again: at once when a lock of this export is
// given up, and every few milliseconds for those whose holder is elsewhere. What a guest can pile
// up is bounded (ENOLCK), and a request that is interrupted is taken out.
#pragma once

#include <fcntl.h>
#include <linux/fuse.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::hostfs {

/// A lock as the protocol has it, as the host's fcntl(2) takes it. Throws EINVAL.
[[nodiscard]] struct flock host_lock(const fuse_file_lock& lock);

/// Thread safety: all functions may be called at once.
class FileLocks {
 public:
  /// Ends a request that had to wait: 0 or an errno.
  using Answer = std::function<void(std::uint64_t unique, int error)>;
  using OpenFile = std::function<core::FileDescriptor()>;

  /// `answer` is called from a thread of this object.
  FileLocks(std::uint32_t limit, Answer answer);
  FileLocks(const FileLocks&) = delete;
  FileLocks& operator=(const FileLocks&) = delete;
  ~FileLocks();

  struct Owner {
    std::uint64_t node;
    std::uint64_t owner;
    bool operator==(const Owner&) const = default;
    bool operator<(const Owner& other) const {
      return std::tie(node, owner) < std::tie(other.node, other.owner);
    }
  };

  enum class Outcome {
    done,
    would_wait,
    waits,  ///< the request is answered later
  };

  /// Sets or removes a lock of `owner`; `open` makes an open file for one who has none yet. With
  /// `wait`, the request `unique` is put aside rather than refused. Throws std::system_error.
  Outcome set(const Owner& owner, std::uint32_t pid, const struct flock& lock, bool wait,
              std::uint64_t unique, const OpenFile& open);

  /// Who is in the way of a lock; l_type is F_UNLCK if nobody is, l_pid 0 if it is not known.
  /// Throws std::system_error.
  struct flock test(const Owner& owner, const struct flock& lock, const OpenFile& open);

  /// flock(2) on an open file. As `set`.
  Outcome set_whole(int file, int operation, bool wait, std::uint64_t unique);

  /// The owner has closed a descriptor of this file: its locks are gone.
  void drop(const Owner& owner);
  /// A file was closed, and its locks of flock(2) went with it: those who wait try again.
  void retry();
  /// Nobody has the file open any more.
  void drop_node(std::uint64_t node);

  /// Ends a request that waits with EINTR. One that is not known may just be on its way here, and
  /// will be ended when it arrives.
  void interrupt(std::uint64_t unique);

 private:
  struct Held {
    core::FileDescriptor fd;
    std::uint32_t pid;
  };
  struct Waiting {
    std::uint64_t unique;
    std::shared_ptr<const Held> held;  ///< of a POSIX lock
    core::FileDescriptor file;         ///< of flock(2): a copy of the handle's
    struct flock lock;
    int operation;
    std::uint64_t node;
  };
  static constexpr std::chrono::milliseconds shortest_pause{1};
  static constexpr std::chrono::milliseconds longest_pause{64};

  std::shared_ptr<const Held> held_by(const Owner& owner, std::uint32_t pid, const OpenFile& open);
  Outcome put_aside(Waiting waiting);
  [[nodiscard]] bool was_interrupted(std::uint64_t unique);
  void work(const std::stop_token& stop);
  void try_all();

  const std::uint32_t limit_;
  const Answer answer_;
  std::mutex mutex_;  ///< guards what follows
  std::map<Owner, std::shared_ptr<const Held>> held_;
  std::vector<Waiting> waiting_;
  std::array<std::uint64_t, 64> early_interrupts_{};  ///< a ring
  std::size_t next_early_ = 0;
  std::uint64_t given_up_ = 0;  ///< counts the times that locks were given up
  std::condition_variable_any changed_;
  std::jthread thread_;  ///< last: it uses all the others
};

}  // namespace cowfs::hostfs
