#include "tests/crash/checker.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <span>
#include <system_error>

#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "tests/crash/disk_states.hpp"

namespace cowfs::tests {
namespace {

using core::sector_bytes;
using core::SectorNumber;

/// Images up to this size are read whole.
constexpr SectorNumber small_image = 1024;

/// Bytes in memory as a file that is only read.
class BytesStorage final : public core::Storage {
 public:
  BytesStorage(std::span<const std::byte> bytes, std::uint64_t size)
      : bytes_(bytes.first(std::min<std::uint64_t>(bytes.size(), size))) {}

  [[nodiscard]] const std::string& name() const override {
    static const std::string name = "state";
    return name;
  }
  [[nodiscard]] core::FileStatus status() const override {
    core::FileStatus status;
    status.size = bytes_.size();
    status.mode = S_IFREG | 0644;
    return status;
  }
  [[nodiscard]] core::SpaceStatus space() const override { return {}; }
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override {
    if (offset >= bytes_.size()) return 0;
    const auto count = std::min<std::uint64_t>(into.size(), bytes_.size() - offset);
    std::memcpy(into.data(), &bytes_[offset], count);
    return count;
  }
  void write(std::uint64_t /*offset*/, std::span<const std::byte> /*from*/) override { refuse(); }
  void sync() override { refuse(); }
  void punch(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { refuse(); }
  void reserve(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { refuse(); }
  void resize(std::uint64_t /*size*/) override { refuse(); }
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override {
    return offset < bytes_.size() ? std::optional(offset) : std::nullopt;
  }
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override {
    return std::max<std::uint64_t>(offset, bytes_.size());
  }
  [[nodiscard]] std::optional<core::Mapping> map(std::uint64_t /*offset*/,
                                                 std::size_t /*length*/) const override {
    return std::nullopt;
  }
  void lock(core::LockKind /*kind*/) override {}

 private:
  [[noreturn]] static void refuse() {
    throw std::system_error(EROFS, std::generic_category(), "a state is only read");
  }

  std::span<const std::byte> bytes_;
};

/// Sectors in a row.
struct Stretch {
  SectorNumber first;
  SectorNumber end;
};

std::vector<Stretch> sectors_to_read(Workload& workload) {
  const auto sectors = workload.layout().sectors;
  if (sectors <= small_image) return {{0, sectors}};
  std::vector<SectorNumber> wanted = workload.history().sectors();
  for (int i = 0; i < 64; ++i) wanted.push_back(workload.random().between(0, sectors - 1));
  std::ranges::sort(wanted);
  std::vector<Stretch> stretches;
  for (const auto sector : wanted) {
    if (!stretches.empty() && sector <= stretches.back().end + 4) {
      stretches.back().end = std::max(stretches.back().end, sector + 1);
    } else {
      stretches.push_back({sector, sector + 1});
    }
  }
  return stretches;
}

class StateCheck {
 public:
  explicit StateCheck(Workload& workload)
      : workload_(workload), stretches_(sectors_to_read(workload)) {}

  /// What is wrong with a state; nothing if it is right.
  std::optional<std::string> problem(const DiskState& state) {
    try {
      return look(state);
    } catch (const std::exception& error) {
      return std::string("cannot be opened: ") + error.what();
    }
  }

 private:
  std::optional<std::string> look(const DiskState& state) {
    const BytesStorage file(state.bytes, state.size);
    const auto found = core::describe_cow(file);
    if (found.layout != workload_.layout()) return "its layout has changed";
    if (!workload_.backing_paths().contains(found.header.backing_path)) {
      return fmt::format("its header names {}", found.header.backing_path);
    }
    const auto& backing = workload_.backing_bytes();
    const core::CowImage image(
        std::make_unique<BytesStorage>(state.bytes, state.size),
        std::make_unique<BytesStorage>(backing, workload_.layout().backing_size), found.layout,
        true);
    for (const auto& stretch : stretches_) {
      content_.resize((stretch.end - stretch.first) * sector_bytes);
      image.read(stretch.first * sector_bytes, content_);
      for (auto sector = stretch.first; sector < stretch.end; ++sector) {
        const auto bytes =
            std::span(content_).subspan((sector - stretch.first) * sector_bytes, sector_bytes);
        if (auto wrong = workload_.history().check(sector, bytes, state.cut)) return wrong;
      }
    }
    return std::nullopt;
  }

  Workload& workload_;
  std::vector<Stretch> stretches_;
  std::vector<std::byte> content_;
};

}  // namespace

std::string Tally::describe() const {
  return fmt::format("{} states checked, {} of them distinct; {} cuts in {} operations of {} runs",
                     states, distinct.size(), cuts, operations, workloads);
}

std::optional<std::string> find_violation(Workload& workload, std::size_t per_cut, Tally& tally) {
  workload.history().finish();
  const auto operations = workload.disk().log().operations();
  DiskStates states(workload.initial_file(), operations);
  StateCheck check(workload);
  const auto& layout = workload.layout();
  const auto salt = ++tally.workloads * 0x9e3779b97f4a7c15;
  tally.operations += operations.size();
  std::optional<std::string> violation;
  for (auto cut = workload.first_operation(); cut < states.cuts() && !violation; ++cut) {
    ++tally.cuts;
    states.go_to(cut);
    states.for_each_state(per_cut, workload.random(), layout.bitmap_offset,
                          layout.bitmap_offset + layout.bitmap_length, [&](const DiskState& state) {
                            ++tally.states;
                            tally.distinct.insert(state.hash ^ salt);
                            violation = check.problem(state);
                            return !violation;
                          });
    if (violation) {
      *violation += fmt::format("\ncut before operation {} of {}; not surely on disk:\n{}", cut,
                                operations.size(), states.unsynced());
    }
  }
  return violation;
}

}  // namespace cowfs::tests
