// The file system that shows one host directory, jailed.
//
// What the other end controls: every byte of every request. It names files by node ids and handles
// (made-up and stale ones are found out: slot_table.hpp), and entries by single names
// (names.hpp); all offsets, sizes, modes and flags are its own. What it can reach with that: each
// operation is relative to a descriptor of a file that was itself reached so from the export's
// root; an entry is opened by openat2 with RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS and (without
// submounts=yes) NO_XDEV, O_PATH only; no link is followed, ever; only regular files and
// directories are opened for I/O. Calls by which something is made, removed or renamed take a
// directory's descriptor and one name. And should all this have a fault, the process has nothing
// else in reach (hostfs/sandbox.hpp).
//
// What the host's own processes control: the tree, at any moment. Between two calls on a name it
// may be another file; so what was opened is looked at, not what had been there before.
#pragma once

#include <linux/fuse.h>
#include <sys/stat.h>

#include <mutex>
#include <optional>
#include <string>

#include "fuse/device.hpp"
#include "fuse/log.hpp"
#include "fuse/session.hpp"
#include "hostfs/file_locks.hpp"
#include "hostfs/identity.hpp"
#include "hostfs/metadata.hpp"
#include "hostfs/node_table.hpp"
#include "hostfs/open_files.hpp"
#include "hostfs/options.hpp"
#include "hostfs/own_files.hpp"
#include "hostfs/passthrough.hpp"
#include "hostfs/pruner.hpp"

namespace cowfs::hostfs {

/// What an export is made of.
struct ExportSetup {
  ExportOptions options;
  core::FileDescriptor root;       ///< O_PATH
  core::FileDescriptor own_files;  ///< /proc/self/fd
  core::FileDescriptor broker;     ///< may be none
  std::string host_path;           ///< the directory's name on the host, for symlinks=inside
  std::optional<FileKey> hidden;   ///< a directory that is never shown: cowfs's run directory
  bool is_root = false;            ///< the worker has root's user ID and the capabilities it needs
  std::int32_t daemon = 0;         ///< the process outside that ends last
};

/// Thread safety: that of a session; all that it calls may be called at once.
class ExportFileSystem final : public fuse::FileSystem {
 public:
  /// `device` and `log` must outlive it. Throws std::system_error.
  ExportFileSystem(ExportSetup setup, const fuse::Device& device, fuse::Log& log);

  [[nodiscard]] const fuse_lowlevel_ops& operations() const override;
  [[nodiscard]] std::unique_ptr<fuse::RequestHandler> new_handler(
      const fuse::Device& device) override;
  void negotiate(fuse_conn_info& connection) override;
  [[nodiscard]] std::uint32_t choose_flags2(std::uint32_t offered) const override;
  void amend_init(std::uint64_t offered, fuse_init_out& reply) override;

  [[nodiscard]] bool uses_passthrough() const { return passthrough_.is_enabled(); }

 private:
  friend class Handler;

  /// An entry of a directory that was found: an O_PATH descriptor and what it is.
  struct Found {
    core::FileDescriptor fd;
    struct stat status;
  };
  /// Opens an entry of a directory. Returns nothing if there is none, or none that may be seen;
  /// throws std::system_error for other errors.
  [[nodiscard]] std::optional<Found> find_entry(int directory, const char* name) const;

  /// What the host says, with what metadata=xattr says instead.
  [[nodiscard]] fuse_attr attributes_of(const struct stat& status,
                                        const std::optional<Metadata>& metadata) const;
  [[nodiscard]] fuse_attr attributes_of(int fd) const;
  [[nodiscard]] std::optional<Metadata> metadata_of(int fd, mode_t type) const;
  void set_metadata(int fd, const Metadata& metadata) const;
  /// What the export shows as the type and mode.
  [[nodiscard]] mode_t shown_mode(const Node& node) const;

  [[nodiscard]] bool keeps_metadata() const { return options_.metadata == MetadataPolicy::xattr; }
  [[nodiscard]] double entry_timeout() const;

  const ExportOptions options_;
  const std::string host_path_;
  const std::optional<FileKey> hidden_;
  const std::int32_t daemon_;
  const FileKey root_;
  const fuse::Device& device_;
  fuse::Log& log_;
  OwnFiles own_files_;
  Identity identity_;
  NodeTable nodes_;
  OpenFiles files_;
  FileLocks locks_;
  Passthrough passthrough_;
  Pruner pruner_;
  mutable std::mutex metadata_mutex_;  ///< held while metadata is read, changed and written
  std::mutex content_mutex_;           ///< guards the nodes' content_mark
  // Agreed on before the first request:
  bool tells_who_keeps_set_ids_ = false;  ///< FUSE_HANDLE_KILLPRIV_V2
  bool extended_setxattr_ = false;        ///< FUSE_SETXATTR_EXT
};

}  // namespace cowfs::hostfs
