// Power cuts at every moment of random workloads: each sector has its last flushed content or one
// written after it, and no set bit points at data that is not there.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "cowcore/left_behind.hpp"
#include "cowcore/pending_file.hpp"
#include "tests/crash/checker.hpp"
#include "tests/crash/options.hpp"
#include "tests/crash/workload.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::tests {
namespace {

constexpr std::size_t states_per_cut = 24;

/// Sizes are of whole bytes of the bitmap, so that every sector has a bit in every layout; some end
/// in a part of a sector.
std::vector<Shape> shapes() {
  std::vector<Shape> found = every_layout(200 * 512);
  for (const auto& shape : every_layout(64 * 512 - 192)) found.push_back(shape);
  for (const auto& shape : every_layout(520 * 512 - 320)) found.push_back(shape);
  found.push_back({.backing_size = 40000 * 512 - 64});  // two chunks of the bitmap
  return found;
}

void print(const char* what, const Tally& tally) {
  std::printf("%s: %s; %s\n", what, tally.describe().c_str(), seed_hint().c_str());
}

/// A killed process's store of bits: it does not come to note that its flush has failed.
class KilledPending final : public core::PendingStore {
 public:
  explicit KilledPending(std::unique_ptr<core::PendingFile> file) : file_(std::move(file)) {}

  [[nodiscard]] std::atomic<std::uint64_t>* words() override { return file_->words(); }
  void reserve(std::size_t first, std::size_t count) override { file_->reserve(first, count); }
  void for_each_used(const std::function<void(std::size_t, std::size_t)>& function) override {
    file_->for_each_used(function);
  }
  void note_failure() override {}
  [[nodiscard]] bool has_failed() const override { return false; }

 private:
  std::unique_ptr<core::PendingFile> file_;
};

/// The file that tells a pending file which COW it belongs to; the bytes are on the Disk.
class Identity {
 public:
  Identity() { write_file(directory_ / "cow", std::string()); }

  [[nodiscard]] std::unique_ptr<KilledPending> pending(const Workload& workload,
                                                       core::PendingFile::Existing existing) const {
    const auto cow = core::PosixStorage::open(directory_ / "cow", core::Access::read_write,
                                              core::FileKinds::regular);
    return std::make_unique<KilledPending>(std::make_unique<core::PendingFile>(
        run(), *cow, core::CowDescription{workload.header(), workload.layout()}, existing));
  }

  /// What every next open does, of which only the bits are of interest here.
  void apply(Workload& workload, const std::shared_ptr<Death>& death) const {
    const auto names = names_in(run());
    const core::LeftBehind left{.state = core::LeftBehind::State::applicable,
                                .why = {},
                                .sectors = 0,
                                .file = run() / names.at(0)};
    const auto cow = workload.disk().open(death);
    core::apply_left_behind(left, *cow, {workload.header(), workload.layout()});
  }

 private:
  [[nodiscard]] boost::filesystem::path run() const { return directory_ / "run"; }

  TemporaryDirectory directory_;
};

class PowerCut : public testing::Test {
 protected:
  /// Runs `fill` on new workloads until that share of the states has been checked.
  template <typename Fill>
  void check_all(const char* what, unsigned percent, Fill&& fill) {
    const auto all = shapes();
    const auto wanted = crash_options().states * percent / 100;
    Tally tally;
    for (std::uint64_t i = 0; tally.distinct.size() < wanted; ++i) {
      const auto& shape = all[i % all.size()];
      SCOPED_TRACE(seed_hint() + ", workload " + std::to_string(i) + " " + shape_name(shape));
      const auto cow = i % 4 == 3 ? Workload::Cow::created : Workload::Cow::existing;
      Workload workload(shape, cow, i);
      fill(workload);
      const auto violation = find_violation(workload, states_per_cut, tally);
      ASSERT_FALSE(violation) << *violation << "\nafter " << tally.describe();
    }
    print(what, tally);
  }

  std::shared_ptr<Death> alive_ = std::make_shared<Death>();
};

TEST_F(PowerCut, LeavesWhatWasFlushedOrWrittenLater) {
  check_all("writes and flushes", 60, [&](Workload& workload) {
    if (workload.random().one_in(3)) workload.relocate();
    ImageSubject image(workload.open_image(alive_));
    workload.run(image, {});
    workload.flush_by([&] { image.flush(); });
  });
}

TEST_F(PowerCut, LeavesWhatWasAppliedAfterAKill) {
  check_all("killed, applied at the next open, written again", 25, [&](Workload& workload) {
    const Identity identity;
    auto& random = workload.random();
    const auto death = std::make_shared<Death>();
    {
      ImageSubject image(workload.open_image(
          death, identity.pending(workload, core::PendingFile::Existing::replace)));
      death->comes_after(static_cast<std::int64_t>(random.between(1, 150)));
      workload.run(image, {.actions = 30});
    }
    try {  // the one that applies may be killed too
      death->comes_after(static_cast<std::int64_t>(random.between(0, 5)));
      workload.flush_by([&] { identity.apply(workload, death); });
    } catch (const std::system_error&) {
      workload.flush_by([&] { identity.apply(workload, alive_); });
    }
    ImageSubject image(workload.open_image(alive_));
    workload.run(image, {.writers = 2, .actions = 10});
    workload.flush_by([&] { image.flush(); });
  });
}

TEST_F(PowerCut, LeavesWhatAnotherWorkerTookOver) {
  check_all("killed, taken over by the next worker", 25, [&](Workload& workload) {
    const Identity identity;
    auto existing = core::PendingFile::Existing::replace;
    for (int worker = 0; worker < 3; ++worker) {
      const auto death = std::make_shared<Death>();
      ImageSubject image(workload.open_image(death, identity.pending(workload, existing)));
      death->comes_after(static_cast<std::int64_t>(workload.random().between(1, 60)));
      workload.run(image, {.writers = 2, .actions = 20, .flushes = 3});
      existing = core::PendingFile::Existing::adopt;
    }
    ImageSubject image(workload.open_image(alive_, identity.pending(workload, existing)));
    workload.flush_by([&] { image.flush(); });
  });
}

TEST_F(PowerCut, LeavesAnEmptyCowWhereOneWasCreated) {
  // The file gets its name after write_empty_cow has returned (create_cow renames it): from that
  // moment on only one state is possible, and it is whole.
  for (const auto& shape : shapes()) {
    SCOPED_TRACE(shape_name(shape));
    Workload workload(shape, Workload::Cow::created, 1);
    Tally tally;
    const auto violation = find_violation(workload, states_per_cut, tally);
    ASSERT_FALSE(violation) << *violation;
    EXPECT_EQ(tally.states, 1U);
  }
}

/// The checker itself: it has to find what is wrong with these.
struct Mutant {
  const char* name;
  Mutation mutation = Mutation::none;
  std::optional<Dropped> dropped = {};  ///< then the real CowImage on a disk that skips syncs
};

class PowerCutMutation : public testing::TestWithParam<Mutant> {};

TEST_P(PowerCutMutation, IsCaught) {
  static constexpr std::size_t most_states = 200'000;
  const auto alive = std::make_shared<Death>();
  const auto all = shapes();
  const bool is_wrong = GetParam().mutation != Mutation::none || GetParam().dropped;
  Tally tally;
  std::optional<std::string> violation;
  for (std::uint64_t i = 0; !violation && tally.states < (is_wrong ? most_states : 10'000); ++i) {
    Workload workload(all[i % all.size()], Workload::Cow::existing, i);
    const auto& layout = workload.layout();
    auto disk = workload.disk().open(alive);
    std::unique_ptr<Subject> subject;
    if (GetParam().dropped) {
      subject = std::make_unique<ImageSubject>(std::make_unique<core::CowImage>(
          drop_syncs(std::move(disk), *GetParam().dropped, layout.data_offset),
          workload.open_backing(), layout, false));
    } else {
      subject = std::make_unique<FlushDriver>(std::move(disk), layout, GetParam().mutation);
    }
    workload.run(*subject, {.parts_of_sectors = false});
    workload.flush_by([&] { subject->flush(); });
    violation = find_violation(workload, states_per_cut, tally);
  }
  if (is_wrong) {
    ASSERT_TRUE(violation) << GetParam().name << " was not caught in " << tally.describe();
    std::printf("%s: caught in state %llu: %s\n", GetParam().name,
                static_cast<unsigned long long>(tally.states),
                violation->substr(0, violation->find('\n')).c_str());
  } else {
    ASSERT_FALSE(violation) << *violation;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, PowerCutMutation,
    testing::Values(Mutant{"none", Mutation::none},
                    Mutant{"bitmap_before_data_sync", Mutation::bitmap_before_data_sync},
                    Mutant{"words_after_sync", Mutation::words_after_sync},
                    Mutant{"no_first_sync", Mutation::no_first_sync},
                    Mutant{"no_second_sync", Mutation::no_second_sync},
                    Mutant{"bit_before_data", Mutation::bit_before_data},
                    Mutant{"image_without_first_sync", Mutation::none, Dropped::before_bitmap},
                    Mutant{"image_without_second_sync", Mutation::none, Dropped::after_bitmap}),
    [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace cowfs::tests
