// COW files that the real UML kernel and its tools wrote, against the checksums of what the guest
// saw. EXPECT.tsv describes them.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cowcore/check_cow.hpp"
#include "cowcore/compare_images.hpp"
#include "cowcore/cow_header.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/cow_info.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/sha256.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;

struct Expected {
  std::string name;
  HeaderFormat format = HeaderFormat::v3;
  std::uint64_t backing_size = 0;
  std::uint32_t mtime = 0;
  SectorCount sectors_in_cow = 0;
  std::string sha256_device;
  std::string sha256_cut;
};

std::vector<Expected> read_expectations() {
  static const std::map<std::string, HeaderFormat> formats{{"1", HeaderFormat::v1},
                                                           {"2", HeaderFormat::v2},
                                                           {"3", HeaderFormat::v3},
                                                           {"3b", HeaderFormat::v3_wide}};
  std::vector<Expected> all;
  fs::ifstream file(fs::path(COWFS_TEST_DATA) / "EXPECT.tsv");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    Expected one;
    std::string maker;
    std::string version;
    std::getline(fields, one.name, '\t');
    std::getline(fields, maker, '\t');
    std::getline(fields, version, '\t');
    one.format = formats.at(version);
    fields >> one.backing_size >> one.mtime >> one.sectors_in_cow >> one.sha256_device >>
        one.sha256_cut;
    if (!fields) throw std::runtime_error("EXPECT.tsv: cannot read " + line);
    all.push_back(one);
  }
  return all;
}

class Fixture : public testing::TestWithParam<Expected> {
 protected:
  Fixture() {
    const auto command = fmt::format("tar -C '{}' --zstd -xf '{}/cow-fixtures.tar.zst' '{}'",
                                     directory_.path().string(), COWFS_TEST_DATA, GetParam().name);
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
    cow_ = directory_ / GetParam().name / "cow";
    backing_ = directory_ / GetParam().name / "base";
  }

  /// Explicitly with its backing, since the path in the header is of another machine.
  [[nodiscard]] OpenedCow open(Access access) const {
    return open_cow(cow_, backing_, access, std::nullopt);
  }

  [[nodiscard]] bool has_tail() const { return GetParam().name == "v2-tail"; }

  tests::TemporaryDirectory directory_;
  fs::path cow_;
  fs::path backing_;
};

/// Hashes the image and the image cut to the backing's size, in one go.
std::pair<std::string, std::string> checksums(const CowImage& image) {
  tests::Sha256 whole;
  tests::Sha256 cut;
  const auto backing_size = image.layout().backing_size;
  const bool same = backing_size == image.size();
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  const std::vector<std::byte> zeros(buffer.size());
  for (std::uint64_t at = 0; at < image.size(); at += buffer.size()) {
    const auto length = std::min<std::uint64_t>(buffer.size(), image.size() - at);
    // Holes need not be read; that they are zeros is shown by other tests.
    const bool hole = image.next_data(at).value_or(image.size()) >= at + length;
    if (!hole) image.read(at, std::span(buffer).first(length));
    const auto bytes = std::span(hole ? zeros : buffer).first(length);
    whole.add(bytes);
    if (same || at >= backing_size) continue;
    cut.add(bytes.first(std::min<std::uint64_t>(length, backing_size - at)));
  }
  const auto digest = whole.finish();
  return {digest, same ? digest : cut.finish()};
}

TEST_P(Fixture, TheMergedImageIsWhatTheGuestSaw) {
  auto opened = open(Access::read_only);
  const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
  const auto [device, cut] = checksums(image);
  EXPECT_EQ(device, GetParam().sha256_device);
  EXPECT_EQ(cut, GetParam().sha256_cut);
  EXPECT_EQ(image.sectors().count(), GetParam().sectors_in_cow);
}

TEST_P(Fixture, ViewsShowTheSame) {
  auto opened = open(Access::read_only);
  CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
  tests::ViewReader viewer;
  for (std::uint64_t at = 0; at < image.size(); at += 1 << 20) {
    const auto length = std::min<std::uint64_t>(1 << 20, image.size() - at);
    if (image.next_data(at).value_or(image.size()) >= at + length) continue;
    ASSERT_EQ(
        tests::difference(viewer.read(image, at, length), tests::read_image(image, at, length), at),
        "the same");
  }
}

TEST_P(Fixture, ItsHeaderIsReadAndWrittenAsItIs) {
  std::vector<std::byte> bytes(header_length(GetParam().format));
  const auto file = PosixStorage::open(cow_, Access::read_only, FileKinds::regular);
  ASSERT_EQ(file->read(0, bytes), bytes.size());
  const auto header = parse_header(bytes, "cow");
  EXPECT_EQ(header.format, GetParam().format);
  EXPECT_EQ(header.backing_size, GetParam().backing_size);
  EXPECT_EQ(header.backing_mtime, GetParam().mtime);
  EXPECT_EQ(header.sector_size, 512U);
  EXPECT_EQ(header.backing_path.substr(0, 1), "/");
  // UML leaves old memory after the path's end; we write zeros there.
  const auto path = std::search(
      bytes.begin(), bytes.end(), reinterpret_cast<const std::byte*>(header.backing_path.data()),
      reinterpret_cast<const std::byte*>(header.backing_path.data() + header.backing_path.size()));
  ASSERT_NE(path, bytes.end());
  const auto after = path + static_cast<std::ptrdiff_t>(header.backing_path.size());
  const auto field_end =
      path + static_cast<std::ptrdiff_t>(longest_backing_path(header.format) + 1);
  std::fill(after, field_end, std::byte{});
  EXPECT_EQ(serialize_header(header), bytes);
}

TEST_P(Fixture, IsInspectedWithoutItsBacking) {
  const auto info = inspect_cow(cow_);
  EXPECT_EQ(info.header.format, GetParam().format);
  EXPECT_EQ(info.sectors_in_cow, GetParam().sectors_in_cow);
  EXPECT_EQ(info.backing_state, BackingState::missing);
  EXPECT_FALSE(info.in_use);
}

TEST_P(Fixture, IsInOrder) {
  const auto result = check_cow(cow_, std::nullopt);
  EXPECT_FALSE(result.is_damaged());
  for (const auto& finding : result.findings) {
    // The path in the header is of another machine; a discard leaves holes.
    const bool expected = finding.name == "backing" || finding.name == "holes" ||
                          (has_tail() && finding.name == "tail-without-bits");
    EXPECT_TRUE(expected) << finding.name << ": " << finding.what;
  }
}

TEST_P(Fixture, EqualsItsContentAsARawImage) {
  const auto raw_path = directory_ / "raw";
  {
    auto opened = open(Access::read_only);
    const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
    const auto raw = tests::make_file(raw_path);
    raw->resize(image.size());
    for (auto at = image.next_data(0); at && *at < image.size(); at = image.next_data(*at)) {
      const auto length = std::min<std::uint64_t>(image.next_hole(*at) - *at, 1 << 20);
      raw->write(*at, tests::read_image(image, *at, length));
      if (*at += length; *at == image.size()) break;
    }
  }
  const auto compare = [&] {
    const auto merged = open_compared(cow_, backing_, ImageKind::by_content, std::nullopt);
    const auto raw = open_compared(raw_path, std::nullopt, ImageKind::raw, std::nullopt);
    return compare_images(merged, raw).first_difference;
  };
  EXPECT_EQ(compare(), std::nullopt);
  const auto raw = PosixStorage::open(raw_path, Access::read_write, FileKinds::regular);
  std::array<std::byte, 1> byte{};
  raw->read(GetParam().backing_size - 1, byte);
  byte[0] ^= std::byte{1};
  raw->write(GetParam().backing_size - 1, byte);
  EXPECT_EQ(compare(), GetParam().backing_size - 1);
}

TEST_P(Fixture, CanBeWrittenUnlessSectorsHaveNoBit) {
  if (has_tail()) {
    EXPECT_NE(
        tests::message_of<Error>([&] { (void)open(Access::read_write); }).find("cowfs convert"),
        std::string::npos);
    return;
  }
  auto opened = open(Access::read_write);
  const auto backing_before = opened.backing->status().modified.tv_sec;
  CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
  auto expected = tests::read_image(image, image.size() - 1024, 1024);
  const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  image.write(image.size() - 515, bytes);
  image.flush();
  std::ranges::copy(bytes, expected.end() - 515);
  EXPECT_EQ(tests::read_image(image, image.size() - 1024, 1024), expected);
  EXPECT_EQ(image.backing().status().modified.tv_sec, backing_before);
}

INSTANTIATE_TEST_SUITE_P(Uml, Fixture, testing::ValuesIn(read_expectations()),
                         [](const auto& test) {
                           auto name = test.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Fixtures, AreAllThere) { EXPECT_GE(read_expectations().size(), 13U); }

}  // namespace
}  // namespace cowfs::core
