#include "cowcore/convert_cow.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

#include "cowcore/backing.hpp"
#include "cowcore/bitmap_editor.hpp"
#include "cowcore/create_cow.hpp"
#include "cowcore/data_and_holes.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/human_units.hpp"
#include "cowcore/merged_pieces.hpp"
#include "cowcore/open_cow.hpp"
#include "cowcore/padded_read.hpp"
#include "cowcore/range_copier.hpp"
#include "cowcore/zeros.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

constexpr std::size_t compared_bytes = std::size_t{128} << 10;

/// The file has all its bytes.
void publish(NewFile& made, const OutputPlace& place, const ConvertOptions& options) {
  made.file().sync();
  if (place.replaced) made.imitate(place.replaced->status());
  report(options.progress, 1, 1);  // the last moment to stop
  made.publish(options.if_exists);
}

CowHeader as_v3(const OpenedCow& opened, const std::optional<fs::path>& backing) {
  CowHeader header;
  header.backing_mtime = opened.header.backing_mtime;
  header.backing_size = opened.header.backing_size;
  header.backing_path = backing ? stored_path(*backing).string() : opened.header.backing_path;
  if (header.backing_path.size() > longest_backing_path(header.format)) {
    throw Error(opened.cow->name(), "the path of the backing is too long for a header",
                "use a shorter path");
  }
  return header;
}

SectorCount copy_sectors(const OpenedCow& opened, Storage& output, const CowLayout& layout,
                         const Progress& progress) {
  const auto total = opened.cow->status().allocated;
  std::uint64_t done = 0;
  RangeCopier copier(output, RangeCopier::Holes::are_there, [&](std::uint64_t bytes) {
    done += bytes;
    report(progress, done, std::max(done, total));
  });
  BitmapEditor bits(output, layout);
  SectorCount count = 0;
  MergedPieces pieces(*opened.cow, *opened.backing, opened.layout);
  for (auto piece = pieces.next_in_cow(0); piece.length > 0;
       piece = pieces.next_in_cow(piece.end())) {
    const auto from = opened.layout.data_offset + piece.offset;
    const auto to = layout.data_offset + piece.offset;
    if (piece.content == MergedPiece::Content::data) {
      copier.copy(*opened.cow, from, to, piece.length);
    } else if (piece.content == MergedPiece::Content::unknown) {
      copier.copy_or_zero(*opened.cow, from, to, piece.length);
    }
    bits.set(piece.offset / sector_bytes, piece.length / sector_bytes);
    count += piece.length / sector_bytes;
  }
  copier.finish();
  bits.finish();
  return count;
}

/// Puts the pages that differ into a COW.
class DifferenceWriter {
 public:
  DifferenceWriter(const Storage& image, const Storage& backing, Storage& cow,
                   const CowLayout& layout)
      : image_(image),
        backing_(backing),
        cow_(cow),
        layout_(layout),
        bits_(cow, layout),
        mine_(compared_bytes),
        below_(compared_bytes) {}

  SectorCount run(const Progress& progress) {
    DataAndHoles image(image_, 0);
    DataAndHoles backing(backing_, 0);
    const auto size = layout_.merged_size;
    const auto total = std::min(size, image_.status().allocated + backing_.status().allocated);
    std::uint64_t done = 0;
    for (std::uint64_t at = 0; at < size;) {
      const auto mine = image.at(at);
      const auto below = backing.at(at);
      const auto hole_end = round_down(std::min(mine.end, below.end), page_bytes);
      if (!mine.is_data && !below.is_data && hole_end > at) {
        at = hole_end;
        continue;
      }
      const auto length = std::min<std::uint64_t>(compared_bytes, size - at);
      compare(at, length);
      at += length;
      done += length;
      report(progress, done, std::max(done, total));
    }
    bits_.finish();
    return count_;
  }

 private:
  void compare(std::uint64_t offset, std::uint64_t length) {
    const auto mine = std::span(mine_).first(length);
    const auto below = std::span(below_).first(length);
    read_padded(image_, offset, layout_.merged_size, mine);
    read_padded(backing_, offset, layout_.backing_size, below);
    const auto kind = [&](std::uint64_t at) {
      const auto bytes = std::min(page_bytes, length - at);
      const auto page = mine.subspan(at, bytes);
      if (std::ranges::equal(page, below.subspan(at, bytes))) return Kind::same;
      return is_zeros(page) ? Kind::zeros : Kind::data;
    };
    for (std::uint64_t at = 0; at < length;) {
      const auto found = kind(at);
      auto end = at;
      while (end < length && kind(end) == found) end = std::min(length, end + page_bytes);
      if (found != Kind::same) {
        bits_.set((offset + at) / sector_bytes, (end - at) / sector_bytes);
        count_ += (end - at) / sector_bytes;
      }
      if (found == Kind::data) {
        cow_.write(layout_.data_offset + offset + at, mine.subspan(at, end - at));
      }
      at = end;
    }
  }

  enum class Kind { same, zeros, data };

  const Storage& image_;
  const Storage& backing_;
  Storage& cow_;
  const CowLayout& layout_;
  BitmapEditor bits_;
  std::vector<std::byte> mine_;
  std::vector<std::byte> below_;
  SectorCount count_ = 0;
};

void refuse_cow(const Storage& image) {
  std::array<std::byte, 4> start{};
  const auto count = image.read(0, start);
  if (has_cow_magic(std::span(start).first(count))) {
    throw Error(image.name(), "is a COW, no plain image", "convert it as COW,BACKING");
  }
}

void require_size(const Storage& image, const FileStatus& backing,
                  const std::string& backing_name) {
  const auto size = image.status().size;
  if (size == backing.size || size == round_up(backing.size, sector_bytes)) return;
  throw BackingMismatch(image.name(),
                        fmt::format("has {}, but the backing {} has {}", human_size(size),
                                    backing_name, human_size(backing.size)),
                        "give the backing that it was made from");
}

}  // namespace

ConvertResult convert_cow(const fs::path& cow, const std::optional<fs::path>& backing,
                          const fs::path& output, const ConvertOptions& options) {
  auto opened = open_cow_to_read(cow, backing);
  const auto status = opened.cow->status();
  const auto place = choose_output(output, options.if_exists,
                                   {{status.identity, "the COW"},
                                    {opened.backing->status().identity, "the backing of the COW"}});
  const auto header = as_v3(opened, backing);
  const auto layout = compute_layout(header, output.string());
  NewFile made(place.file, status.mode);
  made.file().write(0, serialize_header(header));
  made.file().resize(layout.data_offset + layout.backing_size);
  ConvertResult result;
  result.sectors_in_cow = copy_sectors(opened, made.file(), layout, options.progress);
  result.notices = std::move(opened.notices);
  publish(made, place, options);
  return result;
}

ConvertResult make_smallest_cow(const fs::path& image, const fs::path& backing,
                                const fs::path& output, const ConvertOptions& options) {
  const auto source = PosixStorage::open(image, Access::read_only, FileKinds::regular_or_block);
  source->lock(LockKind::shared);
  refuse_cow(*source);
  const auto below = PosixStorage::open(backing, Access::read_only, FileKinds::regular_or_block);
  below->lock(LockKind::shared);
  const auto status = below->status();
  const auto header = header_for_backing(output, backing, status);
  require_size(*source, status, backing.string());
  const auto place =
      choose_output(output, options.if_exists,
                    {{source->status().identity, "the image"}, {status.identity, "the backing"}});
  const auto layout = compute_layout(header, output.string());
  NewFile made(place.file, source->status().mode);
  made.file().write(0, serialize_header(header));
  made.file().resize(layout.data_offset + layout.backing_size);
  ConvertResult result;
  result.sectors_in_cow =
      DifferenceWriter(*source, *below, made.file(), layout).run(options.progress);
  // Locks only keep away who asks for them.
  require_match(header, below->status(), output.string(), backing.string());
  publish(made, place, options);
  return result;
}

}  // namespace cowfs::core
