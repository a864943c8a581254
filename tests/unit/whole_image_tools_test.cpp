// The parts of the operations on whole images, each for itself: the bitmap in pieces, the journal
// of a merge, the new file, copies of ranges.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/filesystem.hpp>
#include <vector>

#include "cowcore/backing.hpp"
#include "cowcore/bitmap_editor.hpp"
#include "cowcore/bitmap_reader.hpp"
#include "cowcore/convert_cow.hpp"
#include "cowcore/create_cow.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/merge.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/new_file.hpp"
#include "cowcore/open_cow.hpp"
#include "cowcore/range_copier.hpp"
#include "cowcore/zeros.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"

namespace cowfs::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using tests::MemoryFile;
using tests::Shape;
using tests::TestRandom;
namespace fs = boost::filesystem;

TEST(Bitmap, ReadInPiecesIsWhatWasEdited) {
  SCOPED_TRACE(tests::seed_hint());
  TestRandom random;
  // More than two pieces of the reader, and a last word that is not full.
  for (const auto& shape : tests::every_layout(std::uint64_t{600} << 20 | 4096)) {
    SCOPED_TRACE(tests::shape_name(shape));
    const auto file = MemoryFile::make("cow")->open();
    const auto header = tests::make_header(shape);
    tests::make_empty_cow(*file, header);
    const auto layout = compute_layout(header, "cow");
    std::vector<bool> expected(layout.sectors);
    BitmapEditor editor(*file, layout);
    for (int i = 0; i < 300; ++i) {
      const auto first = random.between(0, layout.sectors_with_bit - 1);
      const auto count =
          std::min(random.between(1, i % 20 == 0 ? 200'000 : 40), layout.sectors_with_bit - first);
      const bool state = !random.one_in(3);
      state ? editor.set(first, count) : editor.clear(first, count);
      for (auto sector = first; sector < first + count; ++sector) expected[sector] = state;
    }
    editor.finish();
    BitmapReader reader(*file, layout);
    for (SectorNumber at = 0; at < layout.sectors;) {
      const auto run = reader.run(at, layout.sectors - at);
      ASSERT_GT(run.length, 0U);
      for (auto sector = at; sector < at + run.length; ++sector) {
        ASSERT_EQ(expected[sector], run.in_cow) << sector;
      }
      at += run.length;
      if (at < layout.sectors) {
        ASSERT_NE(expected[at], run.in_cow) << at;
      }
    }
  }
}

TEST(Zeros, AreToldFromData) {
  std::vector<std::byte> bytes(1000);
  EXPECT_TRUE(is_zeros(bytes));
  EXPECT_TRUE(is_zeros({}));
  for (const std::size_t at : {0U, 1U, 511U, 999U}) {
    bytes[at] = std::byte{1};
    EXPECT_FALSE(is_zeros(bytes)) << at;
    bytes[at] = std::byte{};
  }
}

MergeRecord sample_record() {
  return {.cow = {"/cow", {12, 34}},
          .backing = {"/back\ning", {56, 78}},
          .backing_mtime = 1700000001,
          .backing_size = 1000001,
          .siblings = {{"/one", {1, 2}}, {std::string(2000, 'x'), {3, -4}}},
          .nonce = 99};
}

TEST(MergeJournal, SaysWhatWasNoted) {
  const auto file = MemoryFile::make("journal")->open();
  EXPECT_FALSE(read_journal(*file));
  const auto record = sample_record();
  note_begun(*file, record);
  ASSERT_TRUE(read_journal(*file));
  EXPECT_EQ(read_journal(*file)->begun, record);
  EXPECT_FALSE(read_journal(*file)->done);
  note_done(*file, record, {1800000000, 1000448});
  ASSERT_TRUE(read_journal(*file));
  EXPECT_EQ(read_journal(*file)->begun, record);
  EXPECT_EQ(read_journal(*file)->done, (MergedBacking{1800000000, 1000448}));
  clear_journal(*file);
  EXPECT_FALSE(read_journal(*file));
}

TEST(MergeJournal, TheEndOfAnEarlierMergeIsNotThatOfThisOne) {
  const auto file = MemoryFile::make("journal")->open();
  auto record = sample_record();
  note_begun(*file, record);
  note_done(*file, record, {1, 2});
  clear_journal(*file);
  record.nonce = 100;
  note_begun(*file, record);
  ASSERT_TRUE(read_journal(*file));
  EXPECT_FALSE(read_journal(*file)->done);
}

TEST(MergeJournal, HalfARecordIsNone) {
  const auto whole = MemoryFile::make("journal", 512);
  note_begun(*whole->open(), sample_record());
  note_done(*whole->open(), sample_record(), {1, 2});
  const auto bytes = whole->content();
  for (std::size_t at = 512; at < bytes.size(); ++at) {
    const auto copy = whole->copy()->open();
    const std::byte changed = ~bytes[at];
    copy->write(at, {&changed, 1});
    EXPECT_FALSE(read_journal(*copy)) << at;
  }
  for (std::uint64_t size = 0; size < bytes.size(); ++size) {
    const auto copy = whole->copy()->open();
    copy->resize(size);
    EXPECT_FALSE(read_journal(*copy)) << size;
  }
}

class UnfinishedMerge : public testing::Test {
 protected:
  UnfinishedMerge()
      : pair_(tests::make_pair_on_disk(directory_.path(), {.backing_size = 1 << 20}, random_)) {
    const auto backing = PosixStorage::open(pair_.backing, Access::read_only, FileKinds::regular);
    record_ = sample_record();
    record_.cow.path = pair_.cow.string();
    record_.backing.identity = lasting_identity(*backing);
    journal_ = journal_path(pair_.cow, pair_.backing, backing->status());
  }

  void note() const { note_begun(*tests::make_file(journal_), record_); }
  [[nodiscard]] OpenedCow open() const {
    return open_cow(pair_.cow, pair_.backing, Access::read_write, std::nullopt);
  }

  tests::TemporaryDirectory directory_;
  TestRandom random_;
  tests::PairOnDisk pair_;
  MergeRecord record_;
  fs::path journal_;
};

TEST_F(UnfinishedMerge, KeepsTheCowFromBeingOpened) {
  note();
  try {
    static_cast<void>(open());
    FAIL() << "was opened";
  } catch (const BackingMismatch& error) {
    EXPECT_THAT(error.what(), HasSubstr("was interrupted; complete it: `cowfs merge --in-place"));
  }
  EXPECT_THROW(create_cow(directory_ / "new", pair_.backing, IfExists::refuse), BackingMismatch);
}

TEST_F(UnfinishedMerge, OfAnotherFileIsNone) {
  ++record_.backing.identity.inode;
  note();
  EXPECT_NO_THROW(static_cast<void>(open()));
}

TEST_F(UnfinishedMerge, ThatLacksOnlyItsEndIsNoneForWhoMatches) {
  note();
  const auto journal = PosixStorage::open(journal_, Access::read_write, FileKinds::regular);
  note_done(*journal, record_, {tests::test_mtime, 1 << 20});
  EXPECT_NO_THROW(static_cast<void>(open()));
  tests::set_mtime(pair_.backing, tests::test_mtime + 1);
  EXPECT_THROW(static_cast<void>(open()), BackingMismatch);
}

TEST(NewFile, IsThereOnlyWhenPublished) {
  const tests::TemporaryDirectory directory;
  {
    NewFile made(directory / "file", 0600);
    made.file().resize(10);
    EXPECT_THAT(tests::names_in(directory.path()), IsEmpty());
  }
  EXPECT_THAT(tests::names_in(directory.path()), IsEmpty());
  NewFile made(directory / "file", 0600);
  tests::write_file(directory / "file", std::string("somebody else's"));
  EXPECT_THROW(made.publish(IfExists::refuse), std::system_error);
  made.publish(IfExists::replace);
  EXPECT_THAT(tests::names_in(directory.path()), ElementsAre("file"));
  EXPECT_EQ(fs::file_size(directory / "file"), 0U);
}

TEST(RangeCopier, WritesWhatWasCopiedAndLeavesHoles) {
  SCOPED_TRACE(tests::seed_hint());
  TestRandom random;
  const auto from = MemoryFile::make("from")->open();
  const auto content = random.bytes(1 << 20);
  from->write(0, content);
  const auto file = MemoryFile::make("to");
  const auto to = file->open();
  to->resize(1 << 20);
  std::vector<std::byte> expected(1 << 20);
  std::uint64_t told = 0;
  std::uint64_t asked = 0;
  RangeCopier copier(*to, RangeCopier::Holes::are_there, [&](std::uint64_t n) { told += n; });
  for (std::uint64_t at = 0; at < expected.size();) {
    const auto length = std::min<std::uint64_t>(random.between(1, 600) * 512, expected.size() - at);
    if (random.one_in(2)) {
      copier.copy(*from, at, at, length);
      std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(at), length,
                  expected.begin() + static_cast<std::ptrdiff_t>(at));
      asked += length;
    } else {
      copier.copy_or_zero(*MemoryFile::make("empty")->open(), 0, at, length);
    }
    at += length;
  }
  copier.finish();
  EXPECT_EQ(tests::difference(file->content(), expected), "the same");
  EXPECT_EQ(told, asked);
}

TEST(MergeCow, CancelledLeavesNothing) {
  const tests::TemporaryDirectory directory;
  TestRandom random;
  const auto pair = tests::make_pair_on_disk(directory.path(), {.backing_size = 1 << 20}, random);
  const auto names = tests::names_in(directory.path());
  const MergeOptions options{.backing = pair.backing,
                             .if_exists = IfExists::refuse,
                             .progress = [](const ProgressReport&) { throw Cancelled("out"); }};
  EXPECT_THROW(static_cast<void>(merge_cow(pair.cow, directory / "out", options)), Cancelled);
  EXPECT_EQ(tests::names_in(directory.path()), names);
}

TEST(MakeSmallestCow, HoldsThePagesThatDiffer) {
  const tests::TemporaryDirectory directory;
  TestRandom random;
  auto content = random.bytes(100 * 4096 + 777);
  tests::write_file(directory / "backing", content);
  content[5] = ~content[5];
  std::fill_n(content.begin() + 10 * 4096, 8192, std::byte{});
  content.back() = ~content.back();
  tests::write_file(directory / "image", content);
  const auto result =
      make_smallest_cow(directory / "image", directory / "backing", directory / "cow", {});
  EXPECT_EQ(result.sectors_in_cow, 8U + 16U + 2U);
  const auto opened = open_cow(directory / "cow", std::nullopt, Access::read_only, std::nullopt);
  const CowImage image(
      PosixStorage::open(directory / "cow", Access::read_only, FileKinds::regular),
      PosixStorage::open(directory / "backing", Access::read_only, FileKinds::regular),
      opened.layout, true);
  EXPECT_EQ(tests::difference(tests::read_all(image), tests::padded(content)), "the same");
}

}  // namespace
}  // namespace cowfs::core
