// The data and the holes of a file, in whole sectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cowcore/sector.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Tells what is data and what is a hole in the part of a file that begins at `start`; offsets are
/// counted from there. Remembers its last answer: asked from the front to the back, it asks the
/// file once for each piece.
///
/// Edges are moved outwards to whole sectors of data: the end of an odd-sized file is no hole.
/// Thread safety: one thread at a time. Errors: those of the file.
class DataFinder {
 public:
  struct Piece {
    bool is_data;
    std::uint64_t end;  ///< offset; past everything if a hole has no end
  };

  /// `file` must outlive the finder.
  DataFinder(const Storage& file, std::uint64_t start) : file_(file), start_(start) {}

  /// The piece that holds `offset`.
  [[nodiscard]] Piece at(std::uint64_t offset) {
    if (offset < begin_ || offset >= end_) find(offset);
    return {is_data_, end_};
  }

 private:
  void find(std::uint64_t offset) {
    begin_ = round_down(offset, sector_bytes);
    const auto data = file_.next_data(start_ + begin_);
    const auto data_begin = data ? round_down(*data - start_, sector_bytes) : ~std::uint64_t{0};
    is_data_ = data_begin <= begin_;
    if (is_data_) {
      const auto hole = round_up(file_.next_hole(*data) - start_, sector_bytes);
      end_ = std::max(hole, begin_ + sector_bytes);
    } else {
      end_ = data_begin;
    }
  }

  const Storage& file_;
  std::uint64_t start_;
  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
  bool is_data_ = false;
};

}  // namespace cowfs::core
