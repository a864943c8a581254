// The merged file mapped into memory.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <optional>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/image_reader.hpp"

namespace cowfs::tests {
namespace {

constexpr std::uint64_t odd_size = 1'000'001;

/// Parameter: the flags that the mapped handle is opened with.
class Mapping : public MountTest, public ::testing::WithParamInterface<int> {
 protected:
  Mapping() : files_(make_files(odd_size)) {}

  void SetUp() override {
    if (GetParam() == O_DIRECT && !kernel_is_at_least(6, 6)) {
      GTEST_SKIP() << "before Linux 6.6 a file that is open for direct I/O can't be mapped shared";
    }
  }
  [[nodiscard]] const CowAndBacking& files() const { return files_; }
  [[nodiscard]] Mounted mount() { return mount_image(files_.cow.string(), point()); }

 private:
  CowAndBacking files_;
};

void store(const MappedFile& mapping, std::uint64_t offset, const Bytes& bytes, Bytes& content) {
  std::ranges::copy(bytes, mapping.bytes().begin() + static_cast<std::ptrdiff_t>(offset));
  std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(offset));
}

TEST_P(Mapping, ShowsTheImageWithZerosAfterItsEnd) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDONLY | GetParam());
  const auto to_page_end = (files().size() + 4095) / 4096 * 4096;
  const MappedFile mapping(file, to_page_end, PROT_READ, MAP_SHARED);
  Bytes found(mapping.bytes().begin(), mapping.bytes().end());
  auto expected = files().content;
  expected.resize(to_page_end);
  EXPECT_TRUE(found == expected) << difference(found, expected);
}

TEST_P(Mapping, StoresInASharedOneAreSeenByReadersOfBothKindsAndStay) {
  auto content = files().content;
  {
    const auto mounted = mount();
    const auto file = open_file(mounted.file(), O_RDWR | GetParam());
    const MappedFile mapping(file, content.size(), PROT_READ | PROT_WRITE, MAP_SHARED);
    for (int i = 0; i < 200; ++i) {
      const auto length = random().between(1, 9000);
      store(mapping, random().between(0, content.size() - length), random().bytes(length), content);
    }
    mapping.sync();
    const ImageModel model(content);
    ASSERT_NO_FATAL_FAILURE(model.check_all(open_file(mounted.file(), O_RDONLY)));
    ASSERT_NO_FATAL_FAILURE(model.check_all(open_file(mounted.file(), O_RDONLY | O_DIRECT)));
  }
  const auto again = mount();
  ImageModel(content).check_all(open_file(again.file(), O_RDONLY));
}

TEST_P(Mapping, StoresStayAlsoWithoutMsync) {
  auto content = files().content;
  {
    const auto mounted = mount();
    auto file = open_file(mounted.file(), O_RDWR | GetParam());
    std::optional<MappedFile> mapping;
    mapping.emplace(file, content.size(), PROT_READ | PROT_WRITE, MAP_SHARED);
    store(*mapping, 4000, random().bytes(100'000), content);
    store(*mapping, content.size() - 3, random().bytes(3), content);
    file = {};  // the mapping goes on without it
    store(*mapping, 500'000, random().bytes(50'000), content);
    mapping.reset();
    mounted.unmount();
  }
  const auto again = mount();
  ImageModel(content).check_all(open_file(again.file(), O_RDONLY));
}

TEST_P(Mapping, ShowsWhatIsWrittenLaterByHandlesOfBothKinds) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDONLY | GetParam());
  const MappedFile mapping(file, files().size(), PROT_READ, MAP_SHARED);
  ImageModel model(files().content);
  for (int i = 0; i < 300; ++i) {
    const auto writer = open_file(mounted.file(), O_WRONLY | (random().one_in(2) ? O_DIRECT : 0));
    auto range = model.random_range(random(), 20'000);
    range.length = std::min(range.length, files().size() - range.offset);
    if (range.length == 0) continue;
    ASSERT_NO_FATAL_FAILURE(model.write(writer, range, random()));
    const auto piece = mapping.bytes().subspan(range.offset, range.length);
    ASSERT_TRUE(
        std::ranges::equal(piece, std::span(model.content()).subspan(range.offset, range.length)));
  }
}

TEST_P(Mapping, StoresInAPrivateOneStayPrivate) {
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDWR | GetParam());
  const MappedFile mapping(file, files().size(), PROT_READ | PROT_WRITE, MAP_PRIVATE);
  EXPECT_TRUE(std::ranges::equal(mapping.bytes(), files().content));
  std::ranges::fill(mapping.bytes(), std::byte{0x77});
  mapping.sync();
  sync_file(file);
  ImageModel(files().content).check_all(file);
  EXPECT_FALSE(in_bitmap_of_file(files(), 0));
}

INSTANTIATE_TEST_SUITE_P(, Mapping, ::testing::Values(0, O_DIRECT), [](const auto& test) {
  return test.param == 0 ? "OfAPlainHandle" : "OfADirectHandle";
});

}  // namespace
}  // namespace cowfs::tests
