#include "cowcore/compare_images.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <system_error>
#include <vector>

#include "cowcore/bitmap_walk.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/data_and_holes.hpp"
#include "cowcore/open_cow.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

constexpr std::size_t piece_bytes = std::size_t{1} << 17;  // fits into a cache

/// A file as a part of an image: the image's byte 0 is at `start`.
class Part {
 public:
  /// `length`: how many bytes the file must have from `start` on; more are zeros.
  Part(const Storage& file, std::uint64_t start, std::uint64_t length)
      : file_(file),
        identity_(file.status().identity),
        start_(start),
        length_(length),
        finder_(file, start) {}

  [[nodiscard]] bool is_same_place(const Part& other) const {
    return identity_ == other.identity_ && start_ == other.start_;
  }

  [[nodiscard]] DataAndHoles::Piece at(std::uint64_t offset) { return finder_.at(offset); }

  void read(std::uint64_t offset, std::span<std::byte> into) const {
    const auto count = file_.read(start_ + offset, into);
    const auto due = offset >= length_ ? 0 : std::min<std::uint64_t>(into.size(), length_ - offset);
    if (count < due) {
      throw std::system_error(EIO, std::generic_category(),
                              fmt::format("{}: shorter than when it was opened", file_.name()));
    }
    std::ranges::fill(into.subspan(count), std::byte{});
  }

 private:
  const Storage& file_;
  FileIdentity identity_;
  std::uint64_t start_;
  std::uint64_t length_;
  DataAndHoles finder_;
};

/// Tells from the front to the back which file holds a piece of an image.
class Image {
 public:
  explicit Image(const ComparedImage& image)
      : size_(image.size),
        backing_(*image.backing, 0, image.cow ? image.layout.backing_size : image.size) {
    if (!image.cow) return;
    cow_.emplace(*image.cow, image.layout.data_offset, 0);
    bitmap_.emplace(*image.cow, image.layout);
    run_ = bitmap_->next();
  }

  struct Piece {
    Part* part;  ///< null past the end of the image: zeros
    std::uint64_t end;
  };

  Piece at(std::uint64_t offset) {
    if (offset >= size_) return {nullptr, ~std::uint64_t{0}};
    while (run_ && offset >= run_->end() * sector_bytes) run_ = bitmap_->next();
    if (!run_) return {&backing_, size_};
    const auto begin = run_->first * sector_bytes;
    if (offset < begin) return {&backing_, begin};
    return {&*cow_, run_->end() * sector_bytes};
  }

 private:
  std::uint64_t size_;
  Part backing_;
  std::optional<Part> cow_;
  std::optional<BitmapWalk> bitmap_;
  std::optional<SectorRange> run_;
};

class Comparer {
 public:
  Comparer(const ComparedImage& a, const ComparedImage& b, const Progress& progress)
      : a_(a),
        b_(b),
        progress_(progress),
        end_(std::max(a.size, b.size)),
        bytes_a_(piece_bytes),
        bytes_b_(piece_bytes),
        zeros_(piece_bytes) {}

  Comparison run() {
    std::uint64_t at = 0;
    report(progress_, 0, end_);
    while (at < end_ && !result_.first_difference) {
      const auto a = a_.at(at);
      const auto b = b_.at(at);
      const auto end = std::min({end_, a.end, b.end});
      const bool shared = a.part != nullptr && b.part != nullptr && a.part->is_same_place(*b.part);
      if (!shared) compare(a.part, b.part, at, end);
      at = end;
    }
    return result_;
  }

 private:
  /// Compares a range that lies in one part of each.
  void compare(Part* a, Part* b, std::uint64_t at, std::uint64_t end) {
    while (at < end && !result_.first_difference) {
      const auto piece_a = a == nullptr ? DataAndHoles::Piece{false, end} : a->at(at);
      const auto piece_b = b == nullptr ? DataAndHoles::Piece{false, end} : b->at(at);
      const auto piece_end = std::min({end, piece_a.end, piece_b.end});
      if (piece_a.is_data || piece_b.is_data) {
        compare_data(piece_a.is_data ? a : nullptr, piece_b.is_data ? b : nullptr, at, piece_end);
      }
      at = piece_end;
    }
  }

  /// A null part is zeros.
  void compare_data(const Part* a, const Part* b, std::uint64_t at, std::uint64_t end) {
    while (at < end && !result_.first_difference) {
      const auto length = std::min<std::uint64_t>(piece_bytes, end - at);
      const auto bytes_a = fetch(a, at, std::span(bytes_a_).first(length));
      const auto bytes_b = fetch(b, at, std::span(bytes_b_).first(length));
      if (std::memcmp(bytes_a.data(), bytes_b.data(), length) != 0) {
        const auto [first, unused] = std::ranges::mismatch(bytes_a, bytes_b);
        result_.first_difference = at + static_cast<std::uint64_t>(first - bytes_a.begin());
      }
      at += length;
      report(progress_, at, end_);
    }
  }

  std::span<const std::byte> fetch(const Part* part, std::uint64_t at, std::span<std::byte> into) {
    if (part == nullptr) return std::span(zeros_).first(into.size());
    part->read(at, into);
    result_.bytes_read += into.size();
    return into;
  }

  Image a_;
  Image b_;
  const Progress& progress_;
  std::uint64_t end_;
  std::vector<std::byte> bytes_a_;
  std::vector<std::byte> bytes_b_;
  const std::vector<std::byte> zeros_;
  Comparison result_;
};

}  // namespace

ComparedImage open_compared(const fs::path& file, const std::optional<fs::path>& backing,
                            ImageKind kind, const std::optional<fs::path>& pending_directory) {
  auto raw = PosixStorage::open(file, Access::read_only, FileKinds::regular_or_block);
  std::array<std::byte, 4> start;
  const auto count = raw->read(0, start);
  const bool is_cow = kind == ImageKind::by_content &&
                      (backing.has_value() || has_cow_magic(std::span(start).first(count)));
  if (is_cow) {
    raw.reset();
    auto opened = open_cow(file, backing, Access::read_only, pending_directory);
    return {.cow = std::move(opened.cow),
            .backing = std::move(opened.backing),
            .layout = opened.layout,
            .size = opened.layout.merged_size,
            .notices = std::move(opened.notices)};
  }
  raw->lock(LockKind::shared);
  const auto size = raw->status().size;
  return {.cow = nullptr, .backing = std::move(raw), .layout = {}, .size = size};
}

Comparison compare_images(const ComparedImage& a, const ComparedImage& b,
                          const Progress& progress) {
  return Comparer(a, b, progress).run();
}

}  // namespace cowfs::core
