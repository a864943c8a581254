// Power cuts at every moment of the operations on whole images: a merge into the backing can always
// be completed, and loses nothing of the COW or a sibling; a COW that is compacted always reads the
// same.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/backing.hpp"
#include "cowcore/compact_cow.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/merge_steps.hpp"
#include "tests/crash/disk_states.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/forwarding_storage.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/memory_storage.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {
namespace {

using core::JournalState;
using core::MergedBacking;
using core::sector_bytes;
using core::Storage;
using Bytes = std::vector<std::byte>;
using File = std::shared_ptr<MemoryFile>;

constexpr std::uint32_t merged_mtime = test_mtime + 1000;

enum Role : std::size_t { cow, sibling, backing, journal, roles };
using Files = std::array<File, roles>;

File file_of(std::span<const std::byte> bytes, std::uint64_t size) {
  auto file = MemoryFile::make("file", 512);
  const auto storage = file->open();
  storage->resize(size);
  storage->write(0, bytes.first(std::min<std::uint64_t>(size, bytes.size())));
  return file;
}

/// Leaves out all syncs.
class UnsyncedStorage final : public ForwardingStorage {
 public:
  using ForwardingStorage::ForwardingStorage;
  void sync() override {}
};

/// The merged image of a COW, by its own header, over a backing.
Bytes merged_content(const File& cow_file, const File& backing_file) {
  auto file = cow_file->open();
  const auto found = core::describe_cow(*file);
  return read_all(core::CowImage(std::move(file), backing_file->open(), found.layout, true));
}

core::SectorCount sectors_in(const File& cow_file) {
  const auto file = cow_file->open();
  return core::SectorMap(*file, core::describe_cow(*file).layout).count();
}

/// A backing, two COWs of it with sectors here and there, and an empty journal.
struct World {
  Files files;
  Bytes old_backing;
  Bytes merged;           ///< of the COW
  Bytes sibling_content;  ///< of the sibling
};

void change_here_and_there(const File& cow_file, const File& backing_file, TestRandom& random) {
  auto file = cow_file->open();
  const auto layout = core::describe_cow(*file).layout;
  core::CowImage image(std::move(file), backing_file->open(), layout, false);
  for (int i = 0; i < 12; ++i) {
    const auto first = random.between(0, layout.sectors - 1);
    const auto count = std::min(random.between(1, 12), layout.sectors - first);
    const auto offset = first * sector_bytes;
    if (random.one_in(4)) {
      image.zero(offset, count * sector_bytes);
    } else if (random.one_in(4)) {  // what the backing has
      image.write(offset, read_image(image, offset, count * sector_bytes));
    } else {
      image.write(offset, random.bytes(count * sector_bytes));
    }
  }
  if (random.one_in(2)) image.write(image.size() - 512, random.bytes(512));
  image.flush();
}

World make_world(const Shape& shape, TestRandom& random) {
  World world;
  for (auto& file : world.files) file = MemoryFile::make("file", 512);
  make_backing(*world.files[backing]->open(), shape.backing_size, random);
  for (const auto role : {cow, sibling}) {
    make_empty_cow(*world.files[role]->open(), make_header(shape));
    change_here_and_there(world.files[role], world.files[backing], random);
  }
  world.old_backing = world.files[backing]->content();
  world.merged = merged_content(world.files[cow], world.files[backing]);
  world.sibling_content = merged_content(world.files[sibling], world.files[backing]);
  return world;
}

/// Runs the merge, from wherever the journal says, on storages that `open` gives for the files.
void merge(const std::function<std::unique_ptr<Storage>(Role)>& open) {
  std::array<std::unique_ptr<Storage>, roles> storages;
  for (std::size_t role = 0; role < roles; ++role) storages[role] = open(static_cast<Role>(role));
  core::MergeFiles files;
  files.cow = storages[cow].get();
  files.description = core::describe_cow(*files.cow);
  files.backing = storages[backing].get();
  files.siblings = {{storages[sibling].get(), core::describe_cow(*storages[sibling])}};
  files.journal = storages[journal].get();
  files.touch_backing = [] {};
  files.finish_backing = [&files] {
    files.backing->sync();
    return MergedBacking{merged_mtime, files.backing->status().size};
  };
  core::MergeStart start;
  start.record.backing_size = files.description.header.backing_size;
  start.record.nonce = 12345;
  if (const auto state = core::read_journal(*files.journal)) {
    start = {state->begun, true, state->done};
  }
  core::run_merge_steps(files, start, {});
}

/// Holds what a power cut left against what has to be.
class MergeCheck {
 public:
  explicit MergeCheck(const World& world) : world_(world) {}

  std::optional<std::string> problem(const Files& files) const {
    try {
      return look(files);
    } catch (const std::exception& error) {
      return std::string("fails: ") + error.what();
    }
  }

 private:
  [[nodiscard]] bool is_new(const File& cow_file) const {
    return core::describe_cow(*cow_file->open()).header.backing_mtime == merged_mtime;
  }
  [[nodiscard]] bool is_merged(const File& backing_file) const {
    return padded(backing_file->content()) == world_.merged;
  }

  std::optional<std::string> look(const Files& files) const {
    const auto state = core::read_journal(*files[journal]->open());
    const bool is_changed = files[backing]->content() != world_.old_backing;
    const bool cow_is_new = is_new(files[cow]);
    if (!state && is_changed && !cow_is_new) {
      return "the backing has changed, and nothing tells of the merge";
    }
    if (!(state && state->done) && !cow_is_new && is_new(files[sibling])) {
      return "the sibling's header came too early";
    }
    if (merged_content(files[sibling], files[backing]) != world_.sibling_content) {
      return "the sibling reads differently";
    }
    const bool backing_is_done = cow_is_new || (state && state->done);
    if (backing_is_done && !is_merged(files[backing])) return "the backing is not merged";
    if (!backing_is_done || cow_is_new) {
      if (merged_content(files[cow], files[backing]) != world_.merged) {
        return "the COW reads differently";
      }
    }
    if (!state && cow_is_new) return finished(files);
    merge([&](Role role) { return files[role]->open(); });
    return finished(files);
  }

  std::optional<std::string> finished(const Files& files) const {
    if (!is_merged(files[backing])) return "completed, the backing is not the merged image";
    if (!is_new(files[cow]) || !is_new(files[sibling])) return "completed, a header is old";
    if (sectors_in(files[cow]) != 0) return "completed, the COW is not empty";
    if (merged_content(files[cow], files[backing]) != world_.merged) {
      return "completed, the COW reads differently";
    }
    if (merged_content(files[sibling], files[backing]) != world_.sibling_content) {
      return "completed, the sibling reads differently";
    }
    if (core::read_journal(*files[journal]->open())) return "completed, the journal is not clear";
    return std::nullopt;
  }

  const World& world_;
};

struct Counts {
  std::uint64_t cuts = 0;
  std::uint64_t states = 0;
};

/// Several files whose logs share a clock, cut at one moment.
class ManyDisks {
 public:
  using Visit = std::function<bool(const Files&)>;

  ManyDisks(const Files& initial, const std::array<std::shared_ptr<OperationLog>, roles>& logs) {
    for (std::size_t role = 0; role < roles; ++role) {
      operations_[role] = logs[role]->operations();
      states_.emplace_back(initial[role]->content(), operations_[role]);
      for (const auto& operation : operations_[role]) moments_.push_back(operation.began);
    }
    moments_.push_back(~std::uint64_t{0});
    std::ranges::sort(moments_);
  }

  /// Shows states of every cut, about `per_file` to the power of the files that are not synced.
  void for_each(std::size_t per_file, TestRandom& random, Counts& counts, const Visit& visit) {
    for (const auto moment : moments_) {
      ++counts.cuts;
      for (std::size_t role = 0; role < roles; ++role) {
        const auto before = std::ranges::count_if(
            operations_[role], [&](const auto& operation) { return operation.began < moment; });
        states_[static_cast<std::size_t>(role)].go_to(static_cast<std::size_t>(before));
      }
      Files files;
      if (!nest(0, per_file, random, files, counts, visit)) return;
    }
  }

 private:
  bool nest(std::size_t role, std::size_t per_file, TestRandom& random, Files& files,
            Counts& counts, const Visit& visit) {
    if (role == roles) {
      ++counts.states;
      Files copies;
      std::ranges::transform(files, copies.begin(), [](const File& file) { return file->copy(); });
      return visit(copies);
    }
    bool going = true;
    states_[role].for_each_state(per_file, random, 0, 0, [&](const DiskState& state) {
      files[role] = file_of(state.bytes, state.size);
      going = nest(role + 1, per_file, random, files, counts, visit);
      return going;
    });
    return going;
  }

  std::array<std::vector<LoggedOperation>, roles> operations_;
  std::vector<DiskStates> states_;
  std::vector<std::uint64_t> moments_;
};

/// Merges once, with the syncs of `unsynced` left out, and checks what cuts leave.
std::optional<std::string> find_merge_violation(const Shape& shape, std::uint64_t stream,
                                                std::optional<Role> unsynced, Counts& counts) {
  TestRandom random(stream);
  const auto world = make_world(shape, random);
  Files initial;
  const auto clock = std::make_shared<std::uint64_t>(0);
  std::array<std::shared_ptr<OperationLog>, roles> logs;
  for (std::size_t role = 0; role < roles; ++role) {
    initial[role] = world.files[role]->copy();
    logs[role] = std::make_shared<OperationLog>(clock);
  }
  merge([&](Role role) -> std::unique_ptr<Storage> {
    auto storage = std::make_unique<RecordingStorage>(world.files[role]->open(), logs[role]);
    if (role != unsynced) return storage;
    return std::make_unique<UnsyncedStorage>(std::move(storage));
  });
  const MergeCheck check(world);
  std::optional<std::string> violation;
  ManyDisks(initial, logs).for_each(12, random, counts, [&](const Files& files) {
    violation = check.problem(files);
    return !violation;
  });
  return violation;
}

std::vector<Shape> merge_shapes() {
  auto found = every_layout(64 * 512);
  for (const auto& shape : every_layout(64 * 512 - 192)) found.push_back(shape);
  return found;
}

TEST(PowerCutInAMerge, CanAlwaysBeCompletedAndLosesNothing) {
  const auto shapes = merge_shapes();
  Counts counts;
  for (std::uint64_t i = 0; i < 6 * shapes.size(); ++i) {
    const auto& shape = shapes[i % shapes.size()];
    SCOPED_TRACE(seed_hint() + ", merge " + std::to_string(i) + " " + shape_name(shape));
    const auto violation = find_merge_violation(shape, 1000 + i, std::nullopt, counts);
    ASSERT_FALSE(violation) << *violation << "\nafter " << counts.states << " states";
  }
  std::printf("merge into the backing: %llu states of %llu cuts checked; %s\n",
              static_cast<unsigned long long>(counts.states),
              static_cast<unsigned long long>(counts.cuts), seed_hint().c_str());
}

class PowerCutInAMergeMutation : public testing::TestWithParam<Role> {};

TEST_P(PowerCutInAMergeMutation, IsCaught) {
  const auto shapes = merge_shapes();
  Counts counts;
  std::optional<std::string> violation;
  for (std::uint64_t i = 0; !violation && i < 40; ++i) {
    violation = find_merge_violation(shapes[i % shapes.size()], 2000 + i, GetParam(), counts);
  }
  ASSERT_TRUE(violation) << "not caught in " << counts.states << " states";
  std::printf("caught in state %llu: %s\n", static_cast<unsigned long long>(counts.states),
              violation->c_str());
}

std::string role_name(const testing::TestParamInfo<Role>& tested) {
  static const std::array<std::string, roles> names{"cow", "sibling", "backing", "journal"};
  return "syncs_of_the_" + names.at(tested.param);
}

/// The merge with a file whose syncs are left out. Without the backing's, the COW is emptied before
/// its content is in the backing.
INSTANTIATE_TEST_SUITE_P(Without, PowerCutInAMergeMutation,
                         testing::Values(cow, sibling, backing, journal), role_name);

std::optional<std::string> find_compact_violation(const Shape& shape, std::uint64_t stream,
                                                  bool synced, Counts& counts) {
  TestRandom random(stream);
  const auto world = make_world(shape, random);
  const auto initial = world.files[cow]->content();
  const auto log = std::make_shared<OperationLog>();
  std::unique_ptr<Storage> storage =
      std::make_unique<RecordingStorage>(world.files[cow]->open(), log);
  if (!synced) storage = std::make_unique<UnsyncedStorage>(std::move(storage));
  const auto below = world.files[backing]->open();
  static_cast<void>(
      core::compact_open_cow(*storage, *below, core::describe_cow(*storage).layout, {}));

  DiskStates states(initial, log->operations());
  std::optional<std::string> violation;
  for (std::size_t cut = 0; cut < states.cuts() && !violation; ++cut) {
    ++counts.cuts;
    states.go_to(cut);
    states.for_each_state(24, random, 0, 0, [&](const DiskState& state) {
      ++counts.states;
      const auto file = file_of(state.bytes, state.size);
      if (merged_content(file, world.files[backing]) != world.merged)
        violation = "reads differently";
      return !violation;
    });
  }
  return violation;
}

/// Large enough that whole blocks are given back.
std::vector<Shape> compact_shapes() { return every_layout(520 * 512 - 192); }

TEST(PowerCutInACompaction, LeavesTheSameContent) {
  Counts counts;
  std::uint64_t stream = 3000;
  for (int round = 0; round < 4; ++round) {
    for (const auto& shape : compact_shapes()) {
      SCOPED_TRACE(seed_hint() + " " + shape_name(shape));
      const auto violation = find_compact_violation(shape, stream++, true, counts);
      ASSERT_FALSE(violation) << *violation;
    }
  }
  std::printf("compaction: %llu states of %llu cuts checked; %s\n",
              static_cast<unsigned long long>(counts.states),
              static_cast<unsigned long long>(counts.cuts), seed_hint().c_str());
}

TEST(PowerCutInACompaction, WithoutItsSyncIsCaught) {
  Counts counts;
  bool caught = false;
  for (std::uint64_t i = 0; !caught && i < 200; ++i) {
    const auto shapes = compact_shapes();
    caught = find_compact_violation(shapes[i % shapes.size()], 4000 + i, false, counts).has_value();
  }
  EXPECT_TRUE(caught) << "in " << counts.states << " states";
}

}  // namespace
}  // namespace cowfs::tests
