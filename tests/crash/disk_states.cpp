#include "tests/crash/disk_states.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "cowcore/sector.hpp"

namespace cowfs::tests {
namespace {

using core::sector_bytes;

std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

std::uint64_t hash_of(std::uint64_t sector, std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return mix(std::hash<std::string_view>{}(text) ^ mix(sector));
}

/// How far into the file an operation reaches.
std::uint64_t end_of(const LoggedOperation& operation) {
  return operation.operation == Operation::resize ? operation.offset
                                                  : operation.offset + operation.length;
}

}  // namespace

DiskStates::DiskStates(std::vector<std::byte> initial, std::vector<LoggedOperation> operations)
    : operations_(std::move(operations)), disk_(std::move(initial)) {
  sizes_.push_back({0, disk_.size()});
  std::uint64_t longest = disk_.size();
  for (const auto& operation : operations_) longest = std::max(longest, end_of(operation));
  disk_.resize(core::round_up(longest, sector_bytes));
  auto bytes = disk_;
  for (std::size_t i = 0; i < operations_.size(); ++i) apply(i, operations_[i], bytes);
}

/// Does the operation, and notes what it changes.
void DiskStates::apply(std::size_t index, const LoggedOperation& operation,
                       std::vector<std::byte>& bytes) {
  const bool is_write = operation.operation == Operation::write;
  if (operation.operation == Operation::resize) {
    if (operation.offset < sizes_.back().size) throw std::logic_error("a file that shrinks");
    sizes_.push_back({index + 1, operation.offset});
    return;
  }
  if (!is_write && operation.operation != Operation::punch) return;
  const auto first = operation.offset / sector_bytes;
  const auto end = (end_of(operation) + sector_bytes - 1) / sector_bytes;
  for (auto sector = first; sector < end; ++sector) {
    const auto content = std::span(bytes).subspan(sector * sector_bytes, sector_bytes);
    if (!versions_.contains(sector)) note_version(0, sector, content);
  }
  if (is_write) {
    std::memcpy(&bytes[operation.offset], operation.bytes.data(), operation.length);
    if (end_of(operation) > sizes_.back().size) sizes_.push_back({index + 1, end_of(operation)});
  } else {
    std::memset(&bytes[operation.offset], 0, operation.length);
  }
  for (auto sector = first; sector < end; ++sector) {
    note_version(index + 1, sector, std::span(bytes).subspan(sector * sector_bytes, sector_bytes));
  }
}

void DiskStates::note_version(std::size_t index, std::uint64_t sector,
                              std::span<const std::byte> bytes) {
  auto& versions = versions_[sector];
  const auto hash = hash_of(sector, bytes);
  versions.push_back({index, contents_.size(), hash});
  contents_.insert(contents_.end(), bytes.begin(), bytes.end());
  if (versions.size() == 1) hash_ ^= hash;
}

void DiskStates::go_to(std::size_t cut) {
  cut_ = cut;
  const auto moment =
      cut < operations_.size() ? operations_[cut].began : std::numeric_limits<std::uint64_t>::max();
  std::uint64_t covered = 0;  // what had ended by then
  for (std::size_t i = 0; i < cut; ++i) {
    const auto& sync = operations_[i];
    if (sync.operation == Operation::sync && sync.ended != 0 && sync.ended < moment) {
      covered = std::max(covered, sync.began);
    }
  }
  auto floor = floor_;
  for (; floor < cut; ++floor) {
    const auto& operation = operations_[floor];
    if (operation.operation == Operation::sync) continue;
    if (operation.ended == 0 || operation.ended >= covered) break;
  }
  move_floor(floor);
}

/// The index of the last version that the first `operations` operations made.
template <typename Versions>
static std::size_t last_version(const Versions& versions, std::size_t operations) {
  const auto after = std::ranges::find_if(
      versions, [&](const auto& version) { return version.operation > operations; });
  return static_cast<std::size_t>(after - versions.begin()) - 1;
}

void DiskStates::move_floor(std::size_t floor) {
  for (auto& [sector, versions] : versions_) {
    const auto before = last_version(versions, floor_);
    const auto after = last_version(versions, floor);
    if (before == after) continue;
    std::memcpy(&disk_[sector * sector_bytes], &contents_[versions[after].content], sector_bytes);
    hash_ ^= versions[before].hash ^ versions[after].hash;
  }
  floor_ = floor;
}

std::vector<DiskStates::Dirty> DiskStates::find_dirty() const {
  std::vector<Dirty> dirty;
  for (const auto& [sector, versions] : versions_) {
    const auto first = last_version(versions, floor_);
    const auto last = last_version(versions, cut_);
    if (last > first) dirty.push_back({sector, &versions[first], last - first + 1, 0});
  }
  return dirty;
}

std::vector<std::uint64_t> DiskStates::possible_sizes() const {
  std::vector<std::uint64_t> found;
  const auto first = last_version(sizes_, floor_);
  const auto last = last_version(sizes_, cut_);
  for (auto i = first; i <= last; ++i) found.push_back(sizes_[i].size);
  return found;
}

void DiskStates::choose(Dirty& dirty, std::size_t version) {
  if (version == dirty.chosen) return;
  std::memcpy(&disk_[dirty.sector * sector_bytes], &contents_[dirty.first[version].content],
              sector_bytes);
  hash_ ^= dirty.first[dirty.chosen].hash ^ dirty.first[version].hash;
  dirty.chosen = version;
}

/// Chooses the last version whose operation has reached the disk.
void DiskStates::choose_up_to(Dirty& dirty, const std::function<bool(std::size_t)>& happened) {
  auto version = dirty.count - 1;
  while (version > 0 && !happened(dirty.first[version].operation)) --version;
  choose(dirty, version);
}

void DiskStates::choose_at_random(std::vector<Dirty>& dirty, TestRandom& random,
                                  std::uint64_t bitmap_begin, std::uint64_t bitmap_end) {
  const auto any = [&](const Dirty& sector) { return random.between(0, sector.count - 1); };
  switch (random.between(0, 4)) {
    case 0:  // each sector for itself
      for (auto& sector : dirty) choose(sector, any(sector));
      break;
    case 1: {  // some of the writes, each of them whole
      std::vector<bool> happened(cut_ + 1);
      const auto share = random.between(1, 9);
      for (std::size_t i = floor_; i <= cut_; ++i) happened[i] = random.between(0, 9) < share;
      for (auto& sector : dirty) {
        choose_up_to(sector, [&](std::size_t operation) { return happened[operation]; });
      }
      break;
    }
    case 2: {  // all up to one, and that one torn
      const auto last = random.between(floor_, cut_);
      for (auto& sector : dirty) {
        const bool torn = random.one_in(2);
        choose_up_to(sector, [&](std::size_t operation) {
          return operation < last || (operation == last && !torn);
        });
      }
      break;
    }
    case 3:  // the newest bitmap over any data
      for (auto& sector : dirty) {
        const bool is_bitmap = sector.sector >= bitmap_begin && sector.sector < bitmap_end;
        choose(sector, is_bitmap ? sector.count - 1 : any(sector));
      }
      break;
    default: {  // all, but for one sector; or nothing, but for one
      const auto odd = random.between(0, dirty.size() - 1);
      const bool newest = random.one_in(2);
      for (std::size_t i = 0; i < dirty.size(); ++i) {
        choose(dirty[i], (i == odd) == newest ? 0 : dirty[i].count - 1);
      }
      break;
    }
  }
}

void DiskStates::for_each_state(std::size_t most, TestRandom& random, std::uint64_t bitmap_begin,
                                std::uint64_t bitmap_end,
                                const std::function<bool(const DiskState&)>& visit) {
  auto dirty = find_dirty();
  const auto sizes = possible_sizes();
  const auto moment = cut_ < operations_.size() ? operations_[cut_].began
                                                : std::numeric_limits<std::uint64_t>::max();
  bool going = true;
  const auto show = [&](std::uint64_t size) {
    if (going) going = visit({disk_, size, moment, hash_ ^ mix(size)});
  };

  std::size_t total = sizes.size();
  for (const auto& sector : dirty) {
    total *= sector.count;
    if (total > most) break;
  }
  if (total <= most) {
    while (going) {
      for (const auto size : sizes) show(size);
      auto next = dirty.begin();
      for (; next != dirty.end() && next->chosen + 1 == next->count; ++next) choose(*next, 0);
      if (next == dirty.end()) break;
      choose(*next, next->chosen + 1);
    }
  } else {
    const auto first_bitmap = bitmap_begin / sector_bytes;
    const auto after_bitmap = (bitmap_end + sector_bytes - 1) / sector_bytes;
    for (const bool new_bitmap : {false, true}) {
      for (const bool new_data : {false, true}) {
        for (auto& sector : dirty) {
          const bool is_bitmap = sector.sector >= first_bitmap && sector.sector < after_bitmap;
          choose(sector, (is_bitmap ? new_bitmap : new_data) ? sector.count - 1 : 0);
        }
        show(sizes.back());
      }
    }
    for (std::size_t i = 4; i < most && !dirty.empty(); ++i) {
      choose_at_random(dirty, random, first_bitmap, after_bitmap);
      show(sizes[random.between(0, sizes.size() - 1)]);
    }
  }
  for (auto& sector : dirty) choose(sector, 0);
}

std::string DiskStates::unsynced() const {
  return describe({operations_.begin() + static_cast<std::ptrdiff_t>(floor_),
                   operations_.begin() + static_cast<std::ptrdiff_t>(cut_)});
}

}  // namespace cowfs::tests
