#include "hostfs/node_table.hpp"

#include <linux/fuse.h>
#include <sys/stat.h>

#include <cerrno>

#include "hostfs/message.hpp"

namespace cowfs::hostfs {

NodeTable::NodeTable(core::FileDescriptor root, const FileKey& key, std::uint32_t limit)
    : limit_(limit), nodes_(limit + 1), index_(1024, no_slot) {
  Node node;
  node.fd = std::move(root);
  node.key = key;
  node.type = S_IFDIR;
  node.lookups = 1;
  (void)nodes_.insert(std::move(node));
  index_slot(root_slot);
}

std::optional<std::uint32_t> NodeTable::slot_of(std::uint64_t id) {
  if (id == FUSE_ROOT_ID) return root_slot;
  const auto slot = static_cast<std::uint32_t>(id);
  // The root has the protocol's number only.
  if (slot == root_slot || nodes_.find(id) == nullptr) return std::nullopt;
  return slot;
}

NodeTable::Pin NodeTable::pin(std::uint64_t id) {
  const std::lock_guard guard(mutex_);
  const auto slot = slot_of(id);
  if (!slot) fail(ESTALE);
  auto& node = nodes_.at(*slot);
  ++node.pins;
  return {*this, *slot, node};
}

void NodeTable::unpin(std::uint32_t index) {
  core::FileDescriptor closed_without_lock;
  const std::lock_guard guard(mutex_);
  --nodes_.at(index).pins;
  closed_without_lock = remove_if_unused(index);
}

core::FileDescriptor NodeTable::remove_if_unused(std::uint32_t index) {
  const auto& node = nodes_.at(index);
  if (node.lookups > 0 || node.pins > 0 || index == root_slot) return {};
  unindex(node.key);
  return std::move(nodes_.remove(index).fd);
}

std::optional<std::uint64_t> NodeTable::add_known(const FileKey& key) {
  const std::lock_guard guard(mutex_);
  const auto slot = index_[find_place(key)];
  if (slot == no_slot) return std::nullopt;
  if (slot == root_slot) return FUSE_ROOT_ID;
  ++nodes_.at(slot).lookups;
  return nodes_.number(slot);
}

std::uint64_t NodeTable::add(core::FileDescriptor fd, const FileKey& key, mode_t type) {
  // One that is there already has a descriptor; this one is closed when the lock is free again.
  core::FileDescriptor given = std::move(fd);
  if (const auto known = add_known(key)) return *known;
  const std::lock_guard guard(mutex_);
  if (const auto slot = index_[find_place(key)]; slot != no_slot) {
    ++nodes_.at(slot).lookups;
    return nodes_.number(slot);
  }
  Node node;
  node.fd = std::move(given);
  node.key = key;
  node.type = type & S_IFMT;
  node.lookups = 1;
  if (std::uint64_t{nodes_.size() + 1} * 4 > std::uint64_t{index_.size()} * 3) grow_index();
  const auto id = nodes_.insert(std::move(node));
  if (id == 0) fail(ENFILE);
  index_slot(static_cast<std::uint32_t>(id));
  return id;
}

bool NodeTable::forget(std::uint64_t id, std::uint64_t lookups) {
  core::FileDescriptor closed_without_lock;
  const std::lock_guard guard(mutex_);
  const auto slot = slot_of(id);
  if (!slot || *slot == root_slot) return false;
  auto& node = nodes_.at(*slot);
  node.lookups -= std::min(lookups, node.lookups);
  const bool gone = node.lookups == 0;
  closed_without_lock = remove_if_unused(*slot);
  return gone;
}

std::uint32_t NodeTable::size() {
  const std::lock_guard guard(mutex_);
  return nodes_.size() - 1;
}

std::vector<std::uint64_t> NodeTable::some_idle(std::uint32_t& cursor, std::size_t count) {
  std::vector<std::uint64_t> ids;
  const std::lock_guard guard(mutex_);
  nodes_.for_each_from(cursor, [&](std::uint32_t slot, const Node& node) {
    if (slot != root_slot && node.pins == 0) ids.push_back(nodes_.number(slot));
    return ids.size() < count;
  });
  return ids;
}

// --- the index ---

std::size_t NodeTable::home_of(const FileKey& key) const {
  auto hash = (key.inode ^ key.device << 40) * 0x9e3779b97f4a7c15U;  // Fibonacci hashing
  hash ^= hash >> 32;
  return hash & (index_.size() - 1);
}

/// Where the key is, or where it would go.
std::size_t NodeTable::find_place(const FileKey& key) {
  auto place = home_of(key);
  while (index_[place] != no_slot && nodes_.at(index_[place]).key != key) {
    place = (place + 1) & (index_.size() - 1);
  }
  return place;
}

void NodeTable::index_slot(std::uint32_t slot) { index_[find_place(nodes_.at(slot).key)] = slot; }

void NodeTable::unindex(const FileKey& key) {
  const auto mask = index_.size() - 1;
  auto hole = find_place(key);
  // What comes after it in the same run may have to move up, so that no search stops short.
  for (auto next = (hole + 1) & mask; index_[next] != no_slot; next = (next + 1) & mask) {
    const auto home = home_of(nodes_.at(index_[next]).key);
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      index_[hole] = index_[next];
      hole = next;
    }
  }
  index_[hole] = no_slot;
}

void NodeTable::grow_index() {
  std::vector<std::uint32_t> larger(index_.size() * 2, no_slot);
  index_.swap(larger);
  nodes_.for_each([this](std::uint32_t slot, const Node&) { index_slot(slot); });
}

}  // namespace cowfs::hostfs
