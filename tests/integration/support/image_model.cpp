#include "tests/integration/support/image_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

auto at(Bytes& bytes, std::uint64_t offset) {
  return bytes.begin() + static_cast<std::ptrdiff_t>(offset);
}

Bytes piece(const Bytes& bytes, std::uint64_t offset, std::size_t length) {
  const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(offset);
  return {begin, begin + static_cast<std::ptrdiff_t>(length)};
}

}  // namespace

std::size_t ImageModel::inside(const Range& range) const {
  const auto left = content_.size() - std::min<std::uint64_t>(range.offset, content_.size());
  return std::min(range.length, left);
}

Range ImageModel::random_range(TestRandom& random, std::size_t longest) const {
  const bool is_short = !random.one_in(8);
  const auto length = random.between(1, is_short ? std::min<std::size_t>(longest, 6000) : longest);
  const auto offset = random.between(0, content_.size());
  // Programs like round numbers; and the edges of sectors and pages are where mistakes are.
  const std::uint64_t unit = random.one_in(3) ? 512 : random.one_in(2) ? 4096 : 1;
  const bool is_round = random.one_in(2);
  return {offset / unit * unit, is_round ? (length + unit - 1) / unit * unit : length};
}

void ImageModel::check_read(const core::FileDescriptor& file, const Range& range) const {
  const auto expected =
      piece(content_, std::min<std::uint64_t>(range.offset, content_.size()), inside(range));
  const auto found = read_at(file, range.offset, range.length);
  ASSERT_EQ(found.size(), expected.size()) << "read of " << range.length << " at " << range.offset;
  // Not EXPECT_EQ: printing the bytes would take ages.
  ASSERT_TRUE(found == expected) << "read of " << range.length << " at " << range.offset << ": "
                                 << difference(found, expected, range.offset);
}

void ImageModel::check_all(const core::FileDescriptor& file) const {
  constexpr std::size_t step = std::size_t{1} << 20;
  for (std::uint64_t offset = 0; offset < content_.size(); offset += step) {
    check_read(file, {offset, step});
  }
}

void ImageModel::write(const core::FileDescriptor& file, const Range& range, TestRandom& random) {
  const auto expected = inside(range);
  const auto bytes = random.bytes(range.length);
  std::size_t taken = 0;
  const int error = error_of([&] { taken = write_at(file, range.offset, bytes); });
  ASSERT_EQ(error, expected > 0 ? 0 : ENOSPC)
      << "write of " << range.length << " at " << range.offset;
  ASSERT_EQ(taken, expected) << "write of " << range.length << " at " << range.offset;
  std::copy_n(bytes.begin(), taken, at(content_, std::min(range.offset, content_.size())));
}

void ImageModel::zero(const core::FileDescriptor& file, int mode, const Range& range) {
  ASSERT_EQ(error_of([&] { allocate(file, mode, range.offset, range.length); }), 0)
      << "fallocate mode " << mode << " of " << range.length << " at " << range.offset;
  const auto count = inside(range);
  if (count > 0) std::fill_n(at(content_, range.offset), count, std::byte{});
}

}  // namespace cowfs::tests
