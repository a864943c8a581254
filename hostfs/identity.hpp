// As whom a thread works on the host's files.
//
// Three kinds of daemon:
// - An ordinary user's, and one with `as=`: it has one user's rights and no capability. The host's
//   kernel checks everything that it does; whoever comes in by the mount acts as that user.
// - Root's: the kernel of the mount has checked each request by mode, owner and groups
//   (default_permissions) before it is sent; the daemon does it with the few capabilities that
//   takes, and makes files with the caller as their owner.
// - With `squash`: what a squashed caller asks is done with the rights of the anonymous user and
//   without capabilities, so that the host's kernel checks it again.
//
// CAP_FSETID is permitted but not effective: every write, truncation and change of owner by the
// daemon makes the host's kernel clear set-user-ID and set-group-ID, as it does for an ordinary
// user. It is raised for the single calls where the caller had it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "hostfs/options.hpp"

namespace cowfs::hostfs {

/// Capabilities of a worker, as bits of the kernel's numbers.
struct WorkerCapabilities {
  std::uint64_t permitted = 0;
  std::uint64_t effective = 0;
};

/// What the worker of an export needs; nothing at all unless it is root's and stays root.
[[nodiscard]] WorkerCapabilities needed_capabilities(const ExportOptions& options, bool is_root);

/// Sets those of the calling thread. Throws std::system_error.
void set_thread_capabilities(const WorkerCapabilities& capabilities);

/// Who asks, in the host's numbers.
struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  std::optional<gid_t> supplementary;  ///< the group that owns the parent directory
};

/// Thread safety: all functions may be called at once; they concern the calling thread.
class Identity {
 public:
  /// `is_root`: the worker has kept root's user ID and the needed capabilities.
  Identity(const ExportOptions& options, bool is_root);

  [[nodiscard]] bool can_act_as_others() const { return is_root_; }
  [[nodiscard]] bool squashes(uid_t shown_uid) const;

  /// Until it goes, the thread's files belong to `caller` and it keeps its capabilities.
  class Owning {
   public:
    Owning(const Identity& identity, const Caller& caller);
    Owning(const Owning&) = delete;
    Owning& operator=(const Owning&) = delete;
    ~Owning();

   private:
    bool user_ = false;
    bool group_ = false;
    bool groups_ = false;
  };

  /// Until it goes, the thread is the anonymous user, without capabilities.
  class Anonymous {
   public:
    explicit Anonymous(const Identity& identity);
    Anonymous(const Anonymous&) = delete;
    Anonymous& operator=(const Anonymous&) = delete;
    ~Anonymous();

   private:
    const Identity& identity_;
  };

  /// Until it goes, set-user-ID and set-group-ID bits are kept.
  class KeepingSetIds {
   public:
    explicit KeepingSetIds(const Identity& identity);
    KeepingSetIds(const KeepingSetIds&) = delete;
    KeepingSetIds& operator=(const KeepingSetIds&) = delete;
    ~KeepingSetIds();

   private:
    const Identity& identity_;
  };

 private:
  const bool is_root_;
  const Squash squash_;
  const uid_t anonymous_user_;
  const gid_t anonymous_group_;
  const WorkerCapabilities capabilities_;
};

}  // namespace cowfs::hostfs
