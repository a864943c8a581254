// What a check finds, one test a finding; that a repair leaves a file which a check has nothing to
// say about, and the same merged image.

#include "cowcore/check_cow.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/open_cow.hpp"
#include "tests/support/cow_pair.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forked_process.hpp"
#include "tests/support/image_reader.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"

namespace cowfs::core {
namespace {

namespace fs = boost::filesystem;
using Bytes = std::vector<std::byte>;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using tests::Shape;

std::vector<std::string> names_of(const std::vector<Finding>& findings) {
  std::vector<std::string> names;
  for (const auto& finding : findings) names.push_back(finding.name);
  return names;
}

class Check : public testing::Test {
 protected:
  void make(const Shape& shape = {}) {
    pair_ = tests::make_pair_on_disk(directory_.path(), shape, random_);
  }

  [[nodiscard]] std::unique_ptr<PosixStorage> cow_file() const {
    return PosixStorage::open(pair_.cow, Access::read_write, FileKinds::regular);
  }

  /// Writes through an image, so that data and bits are as they should be.
  void write(std::uint64_t offset, std::size_t length) const {
    with_image([&](CowImage& image) { image.write(offset, Bytes(length, std::byte{7})); });
  }
  void with_image(const std::function<void(CowImage&)>& change) const {
    auto opened = open_cow(pair_.cow, std::nullopt, Access::read_write, std::nullopt);
    CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
    change(image);
    image.flush();
  }

  [[nodiscard]] Bytes merged() const {
    auto opened = open_cow(pair_.cow, std::nullopt, Access::read_only, std::nullopt);
    const CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, true);
    return tests::read_all(image);
  }

  [[nodiscard]] CheckResult check() const { return check_cow(pair_.cow, run_); }
  [[nodiscard]] std::vector<std::string> found() const { return names_of(check().findings); }

  /// The one thing that a check finds.
  [[nodiscard]] Finding only_finding() const {
    const auto findings = check().findings;
    EXPECT_EQ(findings.size(), 1U) << testing::PrintToString(names_of(findings));
    return findings.empty() ? Finding() : findings.front();
  }

  /// Expects a repair of just this, after which nothing is found and the image is as before.
  void expect_repair_of(const std::string& name) const {
    const auto before = merged();
    const auto result = repair_cow(pair_.cow, run_);
    EXPECT_THAT(names_of(result.repaired), ElementsAre(name));
    EXPECT_THAT(names_of(result.findings), IsEmpty());
    EXPECT_THAT(found(), IsEmpty());
    EXPECT_TRUE(merged() == before);
  }

  /// Expects that a repair changes no byte.
  void expect_no_repair() const {
    const auto before = tests::read_file(pair_.cow);
    const auto findings = found();
    const auto result = repair_cow(pair_.cow, run_);
    EXPECT_THAT(names_of(result.repaired), IsEmpty());
    EXPECT_EQ(names_of(result.findings), findings);
    EXPECT_TRUE(tests::read_file(pair_.cow) == before);
  }

  tests::TemporaryDirectory directory_;
  fs::path run_ = directory_ / "run";
  tests::TestRandom random_;
  tests::PairOnDisk pair_;
};

class CheckOfEveryLayout : public Check, public testing::WithParamInterface<Shape> {};

TEST_P(CheckOfEveryLayout, FindsNothingInACowThatWasUsed) {
  make(GetParam());
  EXPECT_THAT(found(), IsEmpty()) << "in an empty one";
  for (int i = 0; i < 20; ++i) {
    const auto offset = random_.between(0, pair_.layout.merged_size - 1);
    write(offset, std::min<std::uint64_t>(pair_.layout.merged_size - offset, 5000));
  }
  const auto before = tests::read_file(pair_.cow);
  EXPECT_THAT(found(), IsEmpty());
  EXPECT_FALSE(check().is_damaged());
  expect_no_repair();
  EXPECT_TRUE(tests::read_file(pair_.cow) == before);
}

TEST_P(CheckOfEveryLayout, RepairsAllAtOnce) {
  make(GetParam());
  write(0, 1);
  const auto cow = cow_file();
  const auto& layout = pair_.layout;
  if (layout.data_offset > layout.bitmap_offset + layout.bitmap_length) {
    cow->write(layout.bitmap_offset + layout.bitmap_length, Bytes(1, std::byte{0xff}));
  }
  cow->resize(layout.data_offset + layout.merged_size + 10000);
  const auto before = merged();
  EXPECT_FALSE(repair_cow(pair_.cow, run_).repaired.empty());
  EXPECT_THAT(found(), IsEmpty());
  EXPECT_TRUE(merged() == before);
}

std::vector<Shape> shapes() {
  auto all = tests::every_layout(1 << 20);
  for (const std::uint64_t size : {1U, 511U, 512U, 513U, 32767U, 1000001U}) {
    all.push_back({.backing_size = size});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CheckOfEveryLayout, testing::ValuesIn(shapes()),
                         [](const auto& test) { return tests::shape_name(test.param); });

// Damage

TEST_F(Check, AHeaderThatIsNone) {
  make();
  for (const std::uint64_t at : {0U, 4U, 20U, 24U}) {  // magic, version, sector size, alignment
    SCOPED_TRACE(at);
    const auto before = tests::read_file(pair_.cow);
    cow_file()->write(at, Bytes(4, std::byte{0x55}));
    const auto finding = only_finding();
    EXPECT_EQ(finding.name, "header");
    EXPECT_EQ(finding.severity, Finding::Severity::damage);
    EXPECT_NE(finding.advice, "");
    EXPECT_TRUE(check().is_damaged());
    expect_no_repair();
    tests::write_file(pair_.cow, before);
  }
}

TEST_F(Check, AnEmptyFileAndOneThatEndsInItsHeader) {
  make();
  for (const std::uint64_t size : {0U, 3U, 7U, 100U, 4127U}) {
    cow_file()->resize(size);
    EXPECT_EQ(only_finding().name, "header") << size;
  }
}

TEST_F(Check, ABitmapThatIsCutShort) {
  make();
  cow_file()->resize(pair_.layout.bitmap_offset + pair_.layout.bitmap_length - 10);
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "bitmap-cut-short");
  EXPECT_EQ(finding.count, 10U);
  EXPECT_TRUE(check().is_damaged());
  expect_no_repair();
}

TEST_F(Check, DataThatIsCutOff) {
  make();
  write(0, 1 << 20);
  cow_file()->resize(pair_.layout.data_offset + 512 * 2000 + 100);
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "data-cut-short");
  EXPECT_EQ(finding.count, 48U) << "the sector that is cut counts";
  EXPECT_EQ(finding.first, 512U * 2000);
  EXPECT_THAT(finding.advice,
              HasSubstr("truncate --size=" + std::to_string(pair_.layout.data_offset + (1 << 20))));
  EXPECT_TRUE(check().is_damaged());
  expect_no_repair();
}

TEST_F(Check, AllDataIsCutOff) {
  make();
  write(5000, 100);
  cow_file()->resize(pair_.layout.bitmap_offset + pair_.layout.bitmap_length);
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "data-cut-short");
  EXPECT_EQ(finding.count, 1U);
  EXPECT_EQ(finding.first, 4608U);
}

// Remarks

TEST_F(Check, AFileThatIsShortWithoutMissingData) {
  make();
  write(0, 4096);
  cow_file()->resize(pair_.layout.data_offset + 4096);
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "file-short");
  EXPECT_EQ(finding.count, (1U << 20) - 4096);
  EXPECT_FALSE(check().is_damaged());
  expect_repair_of("file-short");
  EXPECT_EQ(fs::file_size(pair_.cow), pair_.layout.data_offset + (1 << 20));
}

TEST_F(Check, AnOddSizedImageMayEndWhereItsBackingDoes) {
  make({.backing_size = 1000001});
  with_image([](CowImage& image) { image.write(image.size() - 512, Bytes(512, std::byte{7})); });
  EXPECT_THAT(found(), IsEmpty());
  cow_file()->resize(pair_.layout.data_offset + 1000001);
  EXPECT_THAT(found(), IsEmpty());
  cow_file()->resize(pair_.layout.data_offset + 1000000);
  EXPECT_THAT(found(), ElementsAre("data-cut-short"));
}

TEST_F(Check, BitsAfterTheLastSector) {
  make({.backing_size = 512 * 1003});
  write(512 * 1000, 512 * 3);
  for (const SectorNumber bit : {1003U, 1007U, 1008U, 20000U}) {
    tests::set_bit_on_disk(*cow_file(), pair_.layout, bit);
  }
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "bits-past-end");
  EXPECT_EQ(finding.count, 4U);
  EXPECT_FALSE(check().is_damaged());
  expect_repair_of("bits-past-end");
  EXPECT_TRUE(tests::bit_on_disk(*cow_file(), pair_.layout, 1002));
}

TEST_F(Check, HolesThatADiscardHasLeft) {
  make();
  write(0, 256 << 10);
  EXPECT_THAT(found(), IsEmpty());
  with_image([](CowImage& image) { image.zero(64 << 10, 64 << 10); });
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "holes");
  EXPECT_EQ(finding.count, 128U);
  EXPECT_EQ(finding.first, 64U << 10);
  EXPECT_FALSE(check().is_damaged());
  expect_no_repair();
}

TEST_F(Check, SectorsWithoutABit) {
  make({.format = HeaderFormat::v2, .backing_size = 2051 * 512});
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "tail-without-bits");
  EXPECT_EQ(finding.count, 3U);
  EXPECT_EQ(finding.first, 2048U * 512);
  EXPECT_THAT(finding.advice, HasSubstr("cowfs convert"));
  EXPECT_THAT(finding.what, Not(HasSubstr("a UML has written")));
  EXPECT_FALSE(check().is_damaged());
  expect_no_repair();
  cow_file()->write(pair_.layout.data_offset + 2049 * 512, Bytes(512, std::byte{7}));
  EXPECT_THAT(only_finding().what, HasSubstr("a UML has written"));
}

TEST_F(Check, ZerosAfterTheEndAreCutOff) {
  make();
  write(0, 4096);
  cow_file()->resize(pair_.layout.data_offset + (1 << 20) + 5000);
  cow_file()->write(pair_.layout.data_offset + (1 << 20) + 2000, Bytes(100, std::byte{}));
  EXPECT_EQ(only_finding().count, 5000U);
  expect_repair_of("trailing-bytes");
  EXPECT_EQ(fs::file_size(pair_.cow), pair_.layout.data_offset + (1 << 20));
}

TEST_F(Check, BytesAfterTheEndAreLeftAlone) {
  make();
  cow_file()->resize(pair_.layout.data_offset + (1 << 20) + 5000);
  cow_file()->write(pair_.layout.data_offset + (1 << 20) + 4999, Bytes(1, std::byte{1}));
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "trailing-bytes");
  EXPECT_FALSE(check().is_damaged());
  expect_no_repair();
}

TEST_F(Check, ABackingThatIsGoneOrChanged) {
  make();
  tests::set_mtime(pair_.backing, 1234567890);
  EXPECT_THAT(only_finding().advice, HasSubstr("touch -m -d @1700000001"));
  fs::resize_file(pair_.backing, 12345);
  EXPECT_EQ(only_finding().name, "backing");
  fs::remove(pair_.backing);
  EXPECT_THAT(only_finding().what, HasSubstr("can't be opened"));
  fs::create_directory(pair_.backing);
  EXPECT_THAT(only_finding().what, HasSubstr("is a directory"));
  EXPECT_FALSE(check().is_damaged());
  expect_no_repair();
}

// What a killed mount has left

class CheckPending : public Check {
 protected:
  CheckPending() {
    make({.backing_size = 64 << 20});
    auto pending = std::make_unique<PendingFile>(run_, *cow_file(), describe_cow(*cow_file()),
                                                 PendingFile::Existing::replace);
    auto& watching = *pending;
    CowImage image(watch_writes(cow_file(), watching),
                   PosixStorage::open(pair_.backing, Access::read_only, FileKinds::regular),
                   pair_.layout, false, std::move(pending));
    image.write(0, Bytes(2560, std::byte{7}));
  }

  [[nodiscard]] fs::path file() const { return run_ / tests::names_in(run_).at(0); }
};

TEST_F(CheckPending, IsPutOnDiskByARepair) {
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "pending-applicable");
  EXPECT_EQ(finding.count, 5U);
  EXPECT_FALSE(check().is_damaged());
  const auto result = repair_cow(pair_.cow, run_);
  EXPECT_THAT(names_of(result.repaired), ElementsAre("pending-applicable"));
  EXPECT_THAT(names_of(result.findings), IsEmpty());
  EXPECT_EQ(merged().at(2559), std::byte{7});
  EXPECT_THAT(tests::names_in(run_), IsEmpty());
}

TEST_F(CheckPending, OfAnotherBootIsRemovedByARepair) {
  const FileDescriptor fd(::open(file().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd.get(), "another-boot", 12, offsetof(pending::Header, boot_id)), 12);
  EXPECT_FALSE(check().is_damaged());
  expect_repair_of("pending-stale");
  EXPECT_THAT(tests::names_in(run_), IsEmpty());
}

TEST_F(CheckPending, IsLeftToTheUserIfSomebodyWroteSince) {
  tests::set_mtime(pair_.cow, 4000000000);
  const auto finding = only_finding();
  EXPECT_EQ(finding.name, "pending-conflict");
  EXPECT_THAT(finding.advice, HasSubstr("--drop-pending"));
  EXPECT_TRUE(check().is_damaged());
  expect_no_repair();
  EXPECT_EQ(tests::names_in(run_).size(), 1U);
}

TEST_F(CheckPending, IsLeftToTheUserIfASyncHadFailed) {
  const FileDescriptor fd(::open(file().c_str(), O_RDWR | O_CLOEXEC));
  const std::uint32_t yes = 1;
  ASSERT_EQ(::pwrite(fd.get(), &yes, 4, offsetof(pending::Header, failed)), 4);
  EXPECT_EQ(only_finding().name, "pending-failed");
  EXPECT_TRUE(check().is_damaged());
  expect_no_repair();
}

TEST_F(CheckPending, IsGivenUpByTheUserIfItIsDamaged) {
  fs::resize_file(file(), 100);
  EXPECT_EQ(only_finding().name, "pending-damaged");
  EXPECT_TRUE(check().is_damaged());
  expect_no_repair();
  EXPECT_EQ(tests::names_in(run_).size(), 1U);
}

// Who may check

TEST_F(Check, ACowInUseIsRefused) {
  make();
  const tests::ForkedProcess uml(
      [&] { return tests::take_process_lock(pair_.cow.c_str(), F_WRLCK); });
  ASSERT_TRUE(uml.succeeded());
  EXPECT_THAT(tests::message_of<Busy>([&] { (void)check(); }), HasSubstr("in use"));
  EXPECT_THAT(tests::message_of<Busy>([&] { (void)repair_cow(pair_.cow, run_); }),
              HasSubstr("in use"));
}

TEST_F(Check, OneThatIsOnlyReadCanBeCheckedAndNotRepaired) {
  make();
  const auto reader = open_cow(pair_.cow, std::nullopt, Access::read_only, std::nullopt);
  EXPECT_THAT(found(), IsEmpty());
  EXPECT_THAT(tests::message_of<Busy>([&] { (void)repair_cow(pair_.cow, run_); }),
              HasSubstr("in use"));
}

TEST_F(Check, ChangesNothing) {
  make();
  tests::set_mtime(pair_.cow, 12345);
  EXPECT_THAT(found(), IsEmpty());
  EXPECT_EQ(fs::last_write_time(pair_.cow), 12345);
}

TEST_F(Check, WhatCannotBeOpenedIsAnError) {
  EXPECT_EQ(tests::error_of([&] { (void)check_cow(directory_ / "missing", run_); }), ENOENT);
  EXPECT_THAT(tests::message_of<Error>([&] { (void)check_cow(directory_.path(), run_); }),
              HasSubstr("is a directory"));
}

}  // namespace
}  // namespace cowfs::core
