#include "cowcore/data_and_holes.hpp"

#include <algorithm>

#include "cowcore/sector.hpp"

namespace cowfs::core {

void DataAndHoles::find(std::uint64_t offset) {
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

}  // namespace cowfs::core
