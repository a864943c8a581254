// What a merged image should hold, worked out in the plainest way.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cowcore/cow_layout.hpp"
#include "cowcore/sector.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::tests {

/// Takes a sector from the files as they were in the beginning, bit by bit, until it is changed;
/// costs memory only for what was changed, however large the image. Shares no code with the image.
class SparseModel {
 public:
  /// The files must stay as they are.
  SparseModel(std::unique_ptr<core::Storage> cow, std::unique_ptr<core::Storage> backing,
              const core::CowLayout& layout)
      : cow_(std::move(cow)), backing_(std::move(backing)), layout_(layout) {}

  // Offsets and lengths are bytes inside the image.
  [[nodiscard]] std::vector<std::byte> read(std::uint64_t offset, std::size_t length) const;
  void write(std::uint64_t offset, std::span<const std::byte> from);
  void zero(std::uint64_t offset, std::uint64_t length);

  /// The sectors that were written or zeroed, save those in the midst of a long zeroed range.
  [[nodiscard]] std::vector<core::SectorNumber> changed() const;

 private:
  using Sector = std::array<std::byte, core::sector_bytes>;
  struct Range {
    core::SectorNumber first;
    core::SectorNumber end;
  };

  [[nodiscard]] Sector original(core::SectorNumber number) const;
  [[nodiscard]] Sector present(core::SectorNumber number) const;

  std::unique_ptr<core::Storage> cow_;
  std::unique_ptr<core::Storage> backing_;
  core::CowLayout layout_;
  std::map<core::SectorNumber, Sector> changed_;
  std::vector<Range> zeroed_;  // older than what is in changed_
};

}  // namespace cowfs::tests
