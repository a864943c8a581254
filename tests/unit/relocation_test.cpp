// A backing that was moved: when the header is made to name its new place, and what stays.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/backing.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/recording_storage.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using tests::message_of;
using tests::Shape;
using Bytes = std::vector<std::byte>;

class Relocation : public testing::Test {
 protected:
  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
    // Something in the COW that a relocation must not lose.
    auto opened = open_cow(pair_.cow, std::nullopt, Access::read_write, std::nullopt);
    CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
    const auto bytes = random_.bytes(5000);
    image.write(3000, bytes);
    image.flush();
    std::ranges::copy(bytes, pair_.content.begin() + 3000);
  }

  [[nodiscard]] OpenedCow open(const std::optional<fs::path>& backing,
                               Access access = Access::read_write) const {
    return open_cow(pair_.cow, backing, access, std::nullopt);
  }

  [[nodiscard]] std::string stored() const {
    return describe_cow(*PosixStorage::open(pair_.cow, Access::read_only, FileKinds::regular))
        .header.backing_path;
  }

  /// Gives the backing another place.
  fs::path move_to(const fs::path& place) const {
    fs::create_directories(place.parent_path());
    fs::rename(pair_.backing, place);
    return place;
  }

  tests::TemporaryDirectory directory_;
  tests::TestRandom random_;
  tests::PairOnDisk pair_;
};

class RelocationOfEveryLayout : public Relocation, public testing::WithParamInterface<Shape> {};

TEST_P(RelocationOfEveryLayout, RewritesTheHeaderInItsLayoutAndNothingElse) {
  make(GetParam());
  const auto before = tests::read_file(pair_.cow);
  const auto moved = move_to(directory_ / "golden" / "image");
  auto opened = open(moved);
  EXPECT_THAT(opened.notices,
              ElementsAre(AllOf(HasSubstr("relocated"), HasSubstr(pair_.backing.string()),
                                HasSubstr(moved.string()))));
  EXPECT_EQ(opened.header.backing_path, moved.string());

  const auto after = tests::read_file(pair_.cow);
  auto header = pair_.header;
  header.backing_path = moved.string();
  EXPECT_EQ(
      Bytes(after.begin(), after.begin() + static_cast<std::ptrdiff_t>(pair_.layout.header_length)),
      serialize_header(header));
  const auto rest = static_cast<std::ptrdiff_t>(pair_.layout.header_length);
  ASSERT_EQ(after.size(), before.size());
  EXPECT_TRUE(std::equal(after.begin() + rest, after.end(), before.begin() + rest));

  opened = {};
  opened = open(std::nullopt);
  EXPECT_THAT(opened.notices, IsEmpty());
  const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
  EXPECT_EQ(tests::difference(tests::read_all(image), pair_.content), "the same");
}

TEST_P(RelocationOfEveryLayout, ClearsLeftoverMemoryAfterThePath) {
  make(GetParam());
  // As UML leaves it: the end of a longer path, and anything.
  auto header = serialize_header(pair_.header);
  const bool is_v3 = GetParam().format == HeaderFormat::v3;
  const std::size_t path_at = is_v3 ? 32 : GetParam().format == HeaderFormat::v3_wide ? 36 : 8;
  const auto first = path_at + pair_.header.backing_path.size() + 1;
  const auto end = path_at + longest_backing_path(GetParam().format) + 1;
  std::fill(header.begin() + static_cast<std::ptrdiff_t>(first),
            header.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0xdb});
  PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular)->write(0, header);

  const auto moved = move_to(directory_ / "b");
  (void)open(moved);
  auto expected = pair_.header;
  expected.backing_path = moved.string();
  auto after = tests::read_file(pair_.cow);
  after.resize(header.size());
  EXPECT_EQ(after, serialize_header(expected));
}

INSTANTIATE_TEST_SUITE_P(Layouts, RelocationOfEveryLayout,
                         testing::ValuesIn(tests::every_layout(1 << 20)),
                         [](const auto& test) { return tests::shape_name(test.param); });

TEST_F(Relocation, TheSameFileByAnotherNameLeavesTheHeaderAlone) {
  make();
  fs::create_hard_link(pair_.backing, directory_ / "hard");
  fs::create_symlink("backing", directory_ / "soft");
  const auto before = tests::read_file(pair_.cow);
  for (const auto* name : {"backing", "hard", "soft", "../" /* and back */}) {
    auto path = directory_ / name;
    if (std::string(name) == "../") {
      path = directory_.path() / ".." / directory_.path().filename() / "backing";
    }
    EXPECT_THAT(open(path).notices, IsEmpty()) << path;
    EXPECT_EQ(tests::read_file(pair_.cow), before) << path;
  }
}

TEST_F(Relocation, AnotherMatchingFileIsTakenAlsoWhileTheOldOneIsThere) {
  make();
  fs::copy_file(pair_.backing, directory_ / "copy");
  tests::set_mtime(directory_ / "copy", tests::test_mtime);
  EXPECT_THAT(open(directory_ / "copy").notices, ElementsAre(HasSubstr("relocated")));
  EXPECT_EQ(stored(), (directory_ / "copy").string());
}

TEST_F(Relocation, AFileThatDoesNotMatchIsRefusedAndTheOldOneNotUsedInstead) {
  make();
  const auto before = tests::read_file(pair_.cow);
  const auto refusal = [&] {
    return message_of<BackingMismatch>([&] { (void)open(directory_ / "other"); });
  };
  fs::copy_file(pair_.backing, directory_ / "other");
  tests::set_mtime(directory_ / "other", tests::test_mtime + 60);
  EXPECT_THAT(refusal(), HasSubstr("was changed at"));
  fs::resize_file(directory_ / "other", 1 << 19);
  tests::set_mtime(directory_ / "other", tests::test_mtime);
  EXPECT_THAT(refusal(), HasSubstr("512.0 KiB"));
  EXPECT_EQ(tests::read_file(pair_.cow), before);
}

TEST_F(Relocation, AReadOnlyOpenUsesTheGivenFileAndWritesNothing) {
  make();
  const auto before = tests::read_file(pair_.cow);
  tests::set_mtime(pair_.cow, 12345);
  const auto moved = move_to(directory_ / "moved");
  auto opened = open(moved, Access::read_only);
  EXPECT_THAT(opened.notices, ElementsAre(HasSubstr("this time")));
  const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
  EXPECT_EQ(tests::difference(tests::read_all(image), pair_.content), "the same");
  EXPECT_EQ(tests::read_file(pair_.cow), before);
  EXPECT_EQ(fs::last_write_time(pair_.cow), 12345);
}

TEST_F(Relocation, StoresAnAbsolutePathWithItsDirectoryResolvedAndItsLastNameKept) {
  make();
  fs::create_directory(directory_ / "real");
  fs::create_directory_symlink("real", directory_ / "link");
  move_to(directory_ / "real" / "file");
  fs::create_symlink("file", directory_ / "real" / "alias");
  const tests::WorkingDirectory here(directory_.path());
  (void)open(fs::path("./link/../link/alias"));
  EXPECT_EQ(stored(), (directory_ / "real" / "alias").string());
}

/// A path of a backing with just so many bytes.
fs::path long_path(const fs::path& directory, std::size_t length) {
  auto path = directory;
  while (path.string().size() + 202 < length) path /= std::string(100, 'd');
  return path / std::string(length - path.string().size() - 1, 'f');
}

TEST_F(Relocation, V1TakesPathsOf255BytesAndNoMore) {
  for (const std::size_t length : {255U, 256U}) {
    fs::create_directory(directory_ / std::to_string(length));
    pair_ = tests::make_pair_on_disk(
        directory_ / std::to_string(length),
        {.format = HeaderFormat::v1, .magic_order = MagicOrder::little}, random_);
    const auto before = tests::read_file(pair_.cow);
    const auto moved = move_to(long_path(directory_.path(), length));
    ASSERT_EQ(moved.string().size(), length);
    if (length == 255) {
      (void)open(moved);
      EXPECT_EQ(stored(), moved.string());
    } else {
      EXPECT_THAT(message_of<Error>([&] { (void)open(moved); }),
                  AllOf(HasSubstr("256 bytes"), HasSubstr("V1 header takes 255")));
      EXPECT_EQ(tests::read_file(pair_.cow), before);
      EXPECT_NO_THROW((void)open(moved, Access::read_only));
    }
  }
}

TEST_F(Relocation, AV3TakesALongPath) {
  make();
  const auto moved = move_to(long_path(directory_.path(), 1000));
  (void)open(moved);
  EXPECT_EQ(stored(), moved.string());
}

TEST(RewriteHeader, WritesOnceWhatDiffersAndSyncs) {
  const auto file = tests::MemoryFile::make("cow");
  auto header = tests::make_header({}, "/images/a");
  tests::make_empty_cow(*file->open(), header);
  const auto log = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage storage(file->open(), log);
  rewrite_header(storage, header);
  EXPECT_EQ(tests::describe(log->operations()), "") << "nothing differs";
  header.backing_path = "/images/other";
  rewrite_header(storage, header);
  EXPECT_EQ(tests::describe(log->operations()), "write 40+5\nsync\n");
}

TEST(RewriteHeader, WritesLessThanAPage) {
  const auto file = tests::MemoryFile::make("cow");
  auto header = tests::make_header({}, "/" + std::string(4094, 'a'));
  tests::make_empty_cow(*file->open(), header);
  const auto log = std::make_shared<tests::OperationLog>();
  tests::RecordingStorage storage(file->open(), log);
  header.backing_path = "/b";
  rewrite_header(storage, header);
  ASSERT_EQ(log->operations().size(), 2U);
  EXPECT_LT(log->operations()[0].length, 4096U);
}

}  // namespace
}  // namespace cowfs::core
