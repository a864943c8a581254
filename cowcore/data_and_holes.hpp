// The data and the holes of a file, in sectors of the image that it holds.
#pragma once

#include <cstdint>

#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Asks a file where its data and holes are, and remembers the last answer. For one thread.
class DataAndHoles {
 public:
  struct Piece {
    bool is_data;
    std::uint64_t end;  ///< of the image; may lie behind its end
  };

  /// The image begins at offset `start` of the file, which must outlive this object.
  DataAndHoles(const Storage& file, std::uint64_t start) : file_(file), start_(start) {}

  /// What lies at a byte of the image, and how far it reaches. Edges are moved outwards to whole
  /// sectors of data: the end of an odd-sized file is no hole.
  [[nodiscard]] Piece at(std::uint64_t offset) {
    if (offset < begin_ || offset >= end_) find(offset);
    return {is_data_, end_};
  }

 private:
  void find(std::uint64_t offset);

  const Storage& file_;
  std::uint64_t start_;
  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
  bool is_data_ = false;
};

}  // namespace cowfs::core
