// The inodes that the kernel knows, each held by a descriptor.
//
// A node is an O_PATH descriptor of a file below the export's root. It was opened relative to
// another node by one name, without following a link, so it is where the guest's own steps led,
// whatever the host does to the tree in the meantime; and it keeps the inode, so that the pair of
// device and inode number can't become another file's. Nothing is ever looked up by a path.
//
// Cost of an inode held: one slot, about 90 bytes with its share of the index, and the kernel's own
// descriptor. A guest that looks up without end runs into the limit (ENFILE), not into the host's
// memory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "cowcore/file_descriptor.hpp"
#include "hostfs/slot_table.hpp"

namespace cowfs::hostfs {

/// What makes two descriptors the same file.
struct FileKey {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const FileKey&) const = default;
};

struct Node {
  core::FileDescriptor fd;  ///< O_PATH
  FileKey key;
  mode_t type = 0;            ///< S_IFMT of the host's file; it never changes
  std::uint64_t lookups = 0;  ///< that the kernel counts too; guarded by the table
  std::uint32_t pins = 0;     ///< requests that use it now; guarded by the table
  // What follows is guarded by OpenFiles.
  std::uint32_t opens = 0;         ///< handles of a regular file
  std::uint32_t content_mark = 0;  ///< of the content when it was opened last; 0: unknown
  std::int32_t backing_id = 0;     ///< of kernel passthrough; 0: none
};

/// Thread safety: all functions may be called at once.
class NodeTable {
 public:
  /// `root` is the export's directory. At most `limit` inodes besides it are held.
  NodeTable(core::FileDescriptor root, const FileKey& key, std::uint32_t limit);

  /// Keeps a node while a request uses it: a kernel that forgets it meanwhile can't close its
  /// descriptor under the request.
  class Pin {
   public:
    Pin(NodeTable& table, std::uint32_t index, Node& node)
        : table_(&table), index_(index), node_(&node) {}
    Pin(Pin&& other) noexcept
        : table_(std::exchange(other.table_, nullptr)), index_(other.index_), node_(other.node_) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin() {
      if (table_ != nullptr) table_->unpin(index_);
    }
    Node* operator->() const { return node_; }
    Node& operator*() const { return *node_; }

   private:
    NodeTable* table_;
    std::uint32_t index_;
    Node* node_;
  };

  /// The node of this id. Throws ESTALE if there is none, e.g. for one that was made up.
  [[nodiscard]] Pin pin(std::uint64_t id);

  /// Adds a lookup to the node of this file, making one if there is none, and returns its id.
  /// Throws ENFILE at the limit.
  [[nodiscard]] std::uint64_t add(core::FileDescriptor fd, const FileKey& key, mode_t type);

  /// Adds a lookup to the node of this file if there is one, and returns its id.
  [[nodiscard]] std::optional<std::uint64_t> add_known(const FileKey& key);

  /// Takes lookups back. More than there are count as all; an id that is none is ignored. Returns
  /// whether the kernel knows the node no more.
  bool forget(std::uint64_t id, std::uint64_t lookups);

  [[nodiscard]] std::uint32_t size();
  [[nodiscard]] std::uint32_t limit() const { return limit_; }

  /// Up to `count` nodes from `cursor` on that no request uses, for the kernel to be asked to
  /// forget them; `cursor` goes round.
  [[nodiscard]] std::vector<std::uint64_t> some_idle(std::uint32_t& cursor, std::size_t count);

 private:
  static constexpr std::uint32_t root_slot = 0;
  static constexpr std::uint32_t no_slot = 0xffffffff;

  void unpin(std::uint32_t index);
  [[nodiscard]] std::optional<std::uint32_t> slot_of(std::uint64_t id);
  core::FileDescriptor remove_if_unused(std::uint32_t index);

  // The index: slots by the file's key, open addressing.
  [[nodiscard]] std::size_t home_of(const FileKey& key) const;
  [[nodiscard]] std::size_t find_place(const FileKey& key);
  void index_slot(std::uint32_t slot);
  void unindex(const FileKey& key);
  void grow_index();

  const std::uint32_t limit_;
  std::mutex mutex_;  ///< guards what follows; never held across a system call
  SlotTable<Node> nodes_;
  std::vector<std::uint32_t> index_;
};

}  // namespace cowfs::hostfs
