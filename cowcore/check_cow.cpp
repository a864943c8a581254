// What is looked for. Only the first group is damage; of the rest, those with a star are mended by
// a repair.
//
//   header               it is no header that a COW can have
//   bitmap-cut-short     the file ends inside its bitmap
//   data-cut-short       bits stand for sectors that lie past the end of the file: data is lost
//   pending-conflict, pending-failed, pending-damaged    left by a killed mount; the user decides
//
//   pending-applicable*  left by a killed mount, as every mount for writing puts it on disk
//   pending-stale*       a pending file that is worth nothing
//   file-short*          the file is shorter than its layout says, but no data is missing
//   bits-past-end*       bits that stand for no sector are set; everybody ignores them
//   trailing-bytes(*)    the file goes on after the last sector; cut off if it is only zeros
//   holes                bits stand for sectors that are holes of the file: they read as zeros.
//                        A discard leaves that, so it is in order; so does a copy that lost data
//   tail-without-bits    V1 and V2: the last sectors have no bit, and can't be written
//   backing              the backing does not match or is not there
//
// A repair changes nothing that the merged image shows, so that it can be interrupted anywhere.

#include "cowcore/check_cow.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <span>

#include "cowcore/backing.hpp"
#include "cowcore/bitmap_walk.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/data_and_holes.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/merge_journal.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using Severity = Finding::Severity;

std::string sectors(SectorCount count) {
  return fmt::format("{} sector{}", count, count == 1 ? "" : "s");
}

/// What the file should at least be long: that is how long UML and uml_mkcow make it.
std::uint64_t expected_size(const CowLayout& layout) {
  return layout.data_offset + layout.backing_size;
}

/// One check of an open COW.
class Check {
 public:
  Check(PosixStorage& cow, const std::optional<fs::path>& pending_directory)
      : cow_(cow), pending_directory_(pending_directory), size_(cow.status().size) {}

  std::vector<Finding> run() {
    if (!read_description()) return findings_;
    look_at_pending();
    look_at_bits();
    look_at_end();
    look_at_bits_past_end();
    look_at_tail();
    look_at_backing();
    return findings_;
  }

  /// After run: mends one finding.
  void mend(const Finding& finding);

 private:
  bool read_description();
  bool bitmap_is_whole();
  void look_at_pending();
  void look_at_bits();
  void look_at_end();
  void look_at_bits_past_end();
  void look_at_tail();
  void look_at_backing();
  void clear_bits_past_end();
  [[nodiscard]] bool only_zeros(std::uint64_t begin, std::uint64_t end) const;
  template <typename Function>
  void for_each_data_byte(std::uint64_t begin, std::uint64_t end, Function&& function) const;

  PosixStorage& cow_;
  const std::optional<fs::path>& pending_directory_;
  std::uint64_t size_;
  CowDescription description_;
  LeftBehind left_;
  std::vector<Finding> findings_;
};

bool Check::read_description() {
  std::array<std::byte, longest_header> bytes;
  const auto count = cow_.read(0, bytes);
  try {
    description_.header = parse_header(std::span(bytes).first(count), cow_.name());
    description_.layout = compute_layout(description_.header, cow_.name());
  } catch (const DamagedCow& error) {
    findings_.push_back({.name = "header",
                         .severity = Severity::damage,
                         .what = error.problem() + ": nothing of it can be read",
                         .advice = error.advice()});
    return false;
  }
  return bitmap_is_whole();
}

bool Check::bitmap_is_whole() {
  const auto& layout = description_.layout;
  const auto end = layout.bitmap_offset + layout.bitmap_length;
  if (size_ >= end) return true;
  findings_.push_back(
      {.name = "bitmap-cut-short",
       .severity = Severity::damage,
       .what = fmt::format("the file ends inside its bitmap, {} bytes too early: which sectors it "
                           "holds is not known any more",
                           end - size_),
       .advice = "restore the COW from a copy, or begin anew with `cowfs create --force`",
       .count = end - size_});
  return false;
}

void Check::look_at_pending() {
  using State = LeftBehind::State;
  if (!pending_directory_) return;
  left_ = find_left_behind(*pending_directory_, cow_, description_);
  const auto what =
      fmt::format("a mount that was killed has left {} written", sectors(left_.sectors));
  const auto add = [&](const char* name, Severity severity, std::string text, const char* advice) {
    findings_.push_back({.name = name,
                         .severity = severity,
                         .what = std::move(text),
                         .advice = advice,
                         .repairable = severity == Severity::remark,
                         .count = left_.sectors});
  };
  constexpr auto decide = "decide: `cowfs check --apply-pending` or `cowfs check --drop-pending`";
  switch (left_.state) {
    case State::nothing:
      return;
    case State::applicable:
      return add("pending-applicable", Severity::remark,
                 what + ": nothing is lost, the next mount puts them on disk",
                 "--repair puts them on disk now");
    case State::stale:
      return add(
          "pending-stale", Severity::remark,
          fmt::format("the pending file {} is worth nothing: {}", left_.file.string(), left_.why),
          "--repair removes it");
    case State::conflict:
      return add("pending-conflict", Severity::damage,
                 fmt::format("{} ({}), but {}", what, left_.file.string(), left_.why), decide);
    case State::failed:
      return add("pending-failed", Severity::damage,
                 fmt::format("{} ({}), but {}", what, left_.file.string(), left_.why), decide);
    case State::damaged:
      return add("pending-damaged", Severity::damage,
                 fmt::format("a mount that was killed has left {}, but {}: what it says is lost",
                             left_.file.string(), left_.why),
                 "give it up with `cowfs check --drop-pending`");
  }
}

/// Counts the sectors in the COW that have no data there.
void Check::look_at_bits() {
  const auto& layout = description_.layout;
  // An odd-sized backing's last sector may be cut where the backing is: UML makes the file so.
  const auto file_end =
      size_ >= expected_size(layout)
          ? layout.merged_size
          : round_down(std::max(size_, layout.data_offset) - layout.data_offset, sector_bytes);
  Finding lost{.name = "data-cut-short", .severity = Severity::damage};
  Finding holes{.name = "holes"};
  BitmapWalk bitmap(cow_, layout);
  DataAndHoles data(cow_, layout.data_offset);
  const auto add = [](Finding& finding, std::uint64_t begin, std::uint64_t end) {
    if (!finding.first) finding.first = begin;
    finding.count += (end - begin) / sector_bytes;
  };
  while (const auto run = bitmap.next()) {
    const auto run_end = run->end() * sector_bytes;
    auto at = run->first * sector_bytes;
    while (at < std::min(run_end, file_end)) {
      const auto [is_data, piece_end] = data.at(at);
      const auto end = std::min({run_end, piece_end, file_end});
      if (!is_data) add(holes, at, end);
      at = end;
    }
    if (at < run_end) add(lost, at, run_end);
  }
  if (lost.count > 0) {
    lost.what = fmt::format(
        "the file was cut short: {} that it should hold {} lost, from byte {} of the image on, and "
        "read{} as zeros",
        sectors(lost.count), lost.count == 1 ? "is" : "are", *lost.first,
        lost.count == 1 ? "s" : "");
    lost.advice =
        fmt::format("restore the COW from a copy; to go on with zeros there: truncate --size={} {}",
                    expected_size(layout), cow_.name());
    findings_.push_back(std::move(lost));
  }
  if (holes.count > 0) {
    holes.what = fmt::format(
        "{} of the COW {} no space and read{} as zeros: as a discard leaves it, so all is well "
        "unless the file was copied by something that loses data",
        sectors(holes.count), holes.count == 1 ? "takes" : "take", holes.count == 1 ? "s" : "");
    findings_.push_back(std::move(holes));
  }
}

void Check::look_at_end() {
  const auto& layout = description_.layout;
  const auto whole = layout.data_offset + layout.merged_size;
  const auto is_lost = [](const Finding& finding) { return finding.name == "data-cut-short"; };
  if (size_ < expected_size(layout) && std::ranges::none_of(findings_, is_lost)) {
    const auto missing = expected_size(layout) - size_;
    findings_.push_back({.name = "file-short",
                         .what = fmt::format("the file is {} bytes shorter than its layout says, "
                                             "but no data is missing",
                                             missing),
                         .advice = "--repair gives it its length, as a hole",
                         .repairable = true,
                         .count = missing});
  }
  if (size_ <= whole) return;
  const bool zeros = only_zeros(whole, size_);
  findings_.push_back(
      {.name = "trailing-bytes",
       .what = fmt::format("the file goes on for {} bytes after its last sector: they are no part "
                           "of the image, and nobody reads them",
                           size_ - whole),
       .advice = zeros
                     ? "they are zeros: --repair cuts them off"
                     : fmt::format("look at them; if they are worth nothing: truncate --size={} {}",
                                   whole, cow_.name()),
       .repairable = zeros,
       .count = size_ - whole});
}

/// Calls function(offset in the file, byte) for all that is not in a hole; it returns whether to go
/// on.
template <typename Function>
void Check::for_each_data_byte(std::uint64_t begin, std::uint64_t end, Function&& function) const {
  std::array<std::byte, 65536> buffer;
  while (begin < end) {
    const auto data = cow_.next_data(begin);
    if (!data || *data >= end) return;
    const auto data_end = std::min(end, cow_.next_hole(*data));
    for (begin = *data; begin < data_end;) {
      const auto length = std::min<std::uint64_t>(buffer.size(), data_end - begin);
      const auto count = cow_.read(begin, std::span(buffer).first(length));
      for (std::size_t i = 0; i < count; ++i) {
        if (!function(begin + i, buffer[i])) return;
      }
      begin += length;
    }
  }
}

bool Check::only_zeros(std::uint64_t begin, std::uint64_t end) const {
  bool zeros = true;
  for_each_data_byte(begin, end,
                     [&](std::uint64_t, std::byte byte) { return zeros = byte == std::byte{}; });
  return zeros;
}

/// In the last byte with bits of sectors, and from there to where the data begins.
void Check::look_at_bits_past_end() {
  const auto& layout = description_.layout;
  const auto last = layout.sectors_with_bit;
  const auto end = std::min(layout.data_offset, size_);
  std::uint64_t bits = 0;
  for_each_data_byte(layout.bitmap_offset + last / 8, end, [&](std::uint64_t at, std::byte byte) {
    if (at == layout.bitmap_offset + last / 8) byte &= std::byte{0xff} << (last % 8);
    bits += static_cast<unsigned>(std::popcount(std::to_integer<unsigned>(byte)));
    return true;
  });
  if (bits == 0) return;
  findings_.push_back(
      {.name = "bits-past-end",
       .what =
           fmt::format("{} bit{} that stand{} for no sector {} set after the bitmap's last one: "
                       "everybody ignores them",
                       bits, bits == 1 ? "" : "s", bits == 1 ? "s" : "", bits == 1 ? "is" : "are"),
       .advice = "--repair clears them",
       .repairable = true,
       .count = bits});
}

void Check::look_at_tail() {
  const auto& layout = description_.layout;
  const auto missing = layout.sectors - layout.sectors_with_bit;
  if (missing == 0) return;
  const auto first = layout.sectors_with_bit * sector_bytes;
  const auto data = cow_.next_data(layout.data_offset + first);
  const bool written =
      data && *data < layout.data_offset + layout.merged_size &&
      !only_zeros(layout.data_offset + first, layout.data_offset + layout.merged_size);
  findings_.push_back(
      {.name = "tail-without-bits",
       .what = fmt::format("its {} bitmap has no bit for the last {}: they always read from the "
                           "backing, and it is mounted read-only{}",
                           format_name(description_.header.format), sectors(missing),
                           written ? "; a UML has written them all the same, which nobody sees, "
                                     "and which may have changed the first bytes of sector 0"
                                   : ""),
       .advice = "make it a V3 COW with `cowfs convert`",
       .count = missing,
       .first = first});
}

void Check::look_at_backing() {
  const auto path = resolve_stored(description_.header.backing_path);
  const auto add = [&](std::string what) {
    findings_.push_back({.name = "backing",
                         .what = std::move(what) + ": the COW is refused until that is mended",
                         .advice = "give its new place with `cowfs relocate`"});
  };
  if (path.empty()) return add("its header names no backing");
  try {
    const auto backing = PosixStorage::open(path, Access::read_only, FileKinds::regular_or_block);
    refuse_unfinished_merge(cow_.name(), description_.header, path, *backing);
    require_match(description_.header, backing->status(), cow_.name(), path.string());
  } catch (const BackingMismatch& error) {
    add(error.problem());
    findings_.back().advice = error.advice();
  } catch (const Error& error) {
    add(fmt::format("its backing {}", error.what()));
  } catch (const std::system_error& error) {
    add(fmt::format("its backing {} can't be opened ({})", path.string(), error.code().message()));
  }
}

void Check::clear_bits_past_end() {
  const auto& layout = description_.layout;
  const auto last = layout.sectors_with_bit;
  const auto at = layout.bitmap_offset + last / 8;
  const auto end = std::min(layout.data_offset, size_);
  if (last % 8 != 0) {
    std::array<std::byte, 1> byte{};
    cow_.read(at, byte);
    byte[0] &= ~(std::byte{0xff} << (last % 8));
    cow_.write(at, byte);
  }
  const auto begin = at + (last % 8 != 0 ? 1 : 0);
  if (begin < end) cow_.punch(begin, end - begin);
}

void Check::mend(const Finding& finding) {
  const auto& layout = description_.layout;
  if (finding.name == "pending-applicable") {
    apply_left_behind(left_, cow_, description_);
  } else if (finding.name == "pending-stale") {
    drop_left_behind(left_);
  } else if (finding.name == "file-short") {
    cow_.resize(expected_size(layout));
  } else if (finding.name == "trailing-bytes") {
    cow_.resize(layout.data_offset + layout.merged_size);
  } else if (finding.name == "bits-past-end") {
    clear_bits_past_end();
  }
  cow_.sync();
}

}  // namespace

bool CheckResult::is_damaged() const {
  return std::ranges::any_of(
      findings, [](const Finding& finding) { return finding.severity == Severity::damage; });
}

CheckResult check_cow(const fs::path& cow, const std::optional<fs::path>& pending_directory) {
  const auto file = PosixStorage::open(cow, Access::read_only, FileKinds::regular);
  file->lock(LockKind::shared);
  return {.findings = Check(*file, pending_directory).run(), .repaired = {}};
}

CheckResult repair_cow(const fs::path& cow, const std::optional<fs::path>& pending_directory) {
  const auto file = PosixStorage::open(cow, Access::read_write, FileKinds::regular);
  file->lock(LockKind::exclusive);
  CheckResult result;
  Check check(*file, pending_directory);
  for (auto& finding : check.run()) {
    if (!finding.repairable) continue;
    check.mend(finding);
    result.repaired.push_back(std::move(finding));
  }
  result.findings = Check(*file, pending_directory).run();
  return result;
}

}  // namespace cowfs::core
