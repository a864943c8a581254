// One file of an export, written, cut, punched, copied and mapped at random, beside a model of it
// in memory; what is read in any way, also on the host, must be the model's.
//
//   COWFS_FILE_STEPS   how many steps each test makes (3000 unless it is set)

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::tests {
namespace {

constexpr std::size_t largest = std::size_t{256} << 10;

class ExportFileModel : public ExportTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ExportFileModel() {
    put_content(host("file"), "");
    exported_.emplace(host(), mounted(), GetParam());
    for (auto& file : files_) file = open_file(mounted("file"), O_RDWR);
    host_ = open_file(host("file"), O_RDONLY);
  }
  ~ExportFileModel() override { unmap(); }

  struct Range {
    std::size_t offset;
    std::size_t length;
  };
  /// Anywhere; often at a page's border.
  Range any_range() {
    auto offset = random_.between(0, largest - 1);
    if (random_.one_in(3)) offset &= ~std::size_t{4095};
    auto length = random_.between(1, random_.one_in(3) ? 60000 : 5000);
    if (random_.one_in(3)) length = (length | 4095) + 1;
    return {offset, std::min(length, largest - offset)};
  }
  /// Of the file's content; empty if it has none.
  Range range_inside() {
    if (model_.empty()) return {0, 0};
    const auto offset = random_.between(0, model_.size() - 1);
    return {offset, random_.between(1, std::min<std::size_t>(20000, model_.size() - offset))};
  }
  [[nodiscard]] int fd() { return files_.at(random_.between(0, files_.size() - 1)).get(); }

  void put(std::size_t offset, const std::string& text) {
    if (model_.size() < offset + text.size()) model_.resize(offset + text.size());
    model_.replace(offset, text.size(), text);
  }
  std::string random_text(std::size_t length) {
    const auto bytes = random_.bytes(length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  void step();
  void write();
  void append();
  void cut();
  void punch();
  void reserve();
  void copy();
  void write_by_mapping();
  void map_anew();
  void unmap();
  void read();
  void expect_holes_to_be_zero();
  void expect_all(const core::FileDescriptor& file, const char* how) const;

  TestRandom random_;
  std::string model_;
  std::optional<Exported> exported_;
  std::array<core::FileDescriptor, 3> files_;
  core::FileDescriptor host_;
  char* mapped_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Options, ExportFileModel,
                         ::testing::Values("allow_other", "passthrough=off",
                                           "cache=never,passthrough=off", "cache=always",
                                           "metadata=xattr"));

void ExportFileModel::write() {
  const auto range = any_range();
  const auto text = random_text(range.length);
  ASSERT_EQ(::pwrite(fd(), text.data(), text.size(), static_cast<off_t>(range.offset)),
            static_cast<ssize_t>(text.size()));
  put(range.offset, text);
}

void ExportFileModel::append() {
  if (model_.size() > largest / 2) return;
  const auto text = random_text(random_.between(1, 9000));
  const auto file = open_file(mounted("file"), O_WRONLY | O_APPEND);
  ASSERT_EQ(::write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  put(model_.size(), text);
}

void ExportFileModel::cut() {
  const auto size = random_.between(0, largest);
  ASSERT_EQ(::ftruncate(fd(), static_cast<off_t>(size)), 0);
  model_.resize(size);
}

void ExportFileModel::punch() {
  const auto range = any_range();
  const bool zeroes = random_.one_in(2);
  const int mode = (zeroes ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;
  if (::fallocate(fd(), mode, static_cast<off_t>(range.offset), static_cast<off_t>(range.length)) !=
      0) {
    ASSERT_EQ(errno, EOPNOTSUPP);  // the host's file system can't
    return;
  }
  if (range.offset >= model_.size()) return;
  const auto length = std::min(range.length, model_.size() - range.offset);
  put(range.offset, std::string(length, '\0'));
}

void ExportFileModel::reserve() {
  const auto range = any_range();
  ASSERT_EQ(
      ::fallocate(fd(), 0, static_cast<off_t>(range.offset), static_cast<off_t>(range.length)), 0);
  model_.resize(std::max(model_.size(), range.offset + range.length));
}

void ExportFileModel::copy() {
  const auto from = range_inside();
  auto to = any_range().offset;
  const auto length = std::min(from.length, largest - to);
  const bool overlaps = from.offset < to + length && to < from.offset + length;
  if (length == 0 || overlaps) return;
  auto source = static_cast<off_t>(from.offset);
  auto target = static_cast<off_t>(to);
  for (auto left = length; left > 0;) {
    const auto copied = ::copy_file_range(fd(), &source, fd(), &target, left, 0);
    ASSERT_GT(copied, 0);
    left -= static_cast<std::size_t>(copied);
  }
  put(to, model_.substr(from.offset, length));
}

void ExportFileModel::map_anew() {
  unmap();
  void* at = ::mmap(nullptr, largest, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
  ASSERT_NE(at, MAP_FAILED);
  mapped_ = static_cast<char*>(at);
}

void ExportFileModel::unmap() {
  if (mapped_ != nullptr) ::munmap(mapped_, largest);
  mapped_ = nullptr;
}

void ExportFileModel::write_by_mapping() {
  if (mapped_ == nullptr) map_anew();
  const auto range = range_inside();
  if (range.length == 0) return;
  const auto text = random_text(range.length);
  std::memcpy(mapped_ + range.offset, text.data(), text.size());
  put(range.offset, text);
  // What a mapping changes reaches other ways to the file when it is synced.
  ASSERT_EQ(::msync(mapped_, largest, MS_SYNC), 0);
}

void ExportFileModel::read() {
  const auto range = any_range();
  std::string text(range.length, '\0');
  const auto count = ::pread(fd(), text.data(), text.size(), static_cast<off_t>(range.offset));
  ASSERT_GE(count, 0);
  text.resize(static_cast<std::size_t>(count));
  const auto expected =
      range.offset < model_.size() ? model_.substr(range.offset, range.length) : std::string();
  ASSERT_TRUE(text == expected) << "at " << range.offset << ", of " << range.length;
  if (mapped_ == nullptr) return;
  ASSERT_EQ(std::memcmp(mapped_ + range.offset, expected.data(), expected.size()), 0)
      << "mapped, at " << range.offset << ", of " << range.length;
}

void ExportFileModel::expect_holes_to_be_zero() {
  off_t at = 0;
  const auto end = static_cast<off_t>(model_.size());
  while (at < end) {
    const auto data = ::lseek(files_[0].get(), at, SEEK_DATA);
    ASSERT_TRUE(data >= 0 || errno == ENXIO);
    const auto hole_end = data < 0 ? end : data;
    const auto hole =
        model_.substr(static_cast<std::size_t>(at), static_cast<std::size_t>(hole_end - at));
    ASSERT_EQ(hole.find_first_not_of('\0'), std::string::npos) << "in the hole at " << at;
    if (data < 0) return;
    at = ::lseek(files_[0].get(), data, SEEK_HOLE);
    ASSERT_GT(at, data);
  }
}

void ExportFileModel::expect_all(const core::FileDescriptor& file, const char* how) const {
  ASSERT_EQ(static_cast<std::size_t>(status_of(file).st_size), model_.size()) << how;
  const auto bytes = read_at(file, 0, model_.size());
  ASSERT_EQ(bytes.size(), model_.size()) << how;
  ASSERT_EQ(std::memcmp(bytes.data(), model_.data(), bytes.size()), 0) << how;
}

void ExportFileModel::step() {
  using Step = void (ExportFileModel::*)();
  constexpr std::array<Step, 15> steps{
      &ExportFileModel::write,    &ExportFileModel::write,
      &ExportFileModel::write,    &ExportFileModel::read,
      &ExportFileModel::read,     &ExportFileModel::read,
      &ExportFileModel::read,     &ExportFileModel::append,
      &ExportFileModel::cut,      &ExportFileModel::punch,
      &ExportFileModel::punch,    &ExportFileModel::reserve,
      &ExportFileModel::copy,     &ExportFileModel::write_by_mapping,
      &ExportFileModel::map_anew,
  };
  (this->*steps.at(random_.between(0, steps.size() - 1)))();
}

TEST_P(ExportFileModel, HoldsWhatWasWritten) {
  SCOPED_TRACE(seed_hint());
  const char* given = std::getenv("COWFS_FILE_STEPS");
  const int count = given == nullptr ? 3000 : std::stoi(given);
  for (int i = 0; i < count && !HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    step();
    if (i % 50 != 0 || HasFatalFailure()) continue;
    expect_holes_to_be_zero();
    expect_all(files_[0], "in the export");
    expect_all(host_, "on the host");
  }
}

}  // namespace
}  // namespace cowfs::tests
