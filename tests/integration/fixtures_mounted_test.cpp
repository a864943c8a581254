// COW files that the real UML wrote, in every layout, mounted: the merged file holds what the guest
// saw. EXPECT.tsv among the test data says what that is.

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/filesystem.hpp>
#include <boost/filesystem/fstream.hpp>
#include <optional>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/image_model.hpp"
#include "tests/integration/support/mounted.hpp"
#include "tests/support/sha256.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

struct Fixture {
  std::string name;
  std::uint64_t backing_size = 0;
  std::string sha256_of_merged;
  std::string sha256_of_backing_size;
};

void PrintTo(const Fixture& fixture, std::ostream* out) { *out << fixture.name; }

std::vector<Fixture> read_expectations() {
  std::vector<Fixture> fixtures;
  fs::ifstream file(fs::path(COWFS_TEST_DATA) / "EXPECT.tsv");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream columns(line);
    Fixture fixture;
    std::string maker;
    std::string version;
    std::string mtime;
    std::string sectors;
    columns >> fixture.name >> maker >> version >> fixture.backing_size >> mtime >> sectors >>
        fixture.sha256_of_merged >> fixture.sha256_of_backing_size;
    if (!columns) throw std::runtime_error("EXPECT.tsv: cannot read " + line);
    fixtures.push_back(fixture);
  }
  return fixtures;
}

class MountedFixture : public MountTest, public ::testing::WithParamInterface<Fixture> {
 protected:
  MountedFixture() {
    const auto archive = (fs::path(COWFS_TEST_DATA) / "cow-fixtures.tar.zst").string();
    const auto unpacked = run({.command = {"tar", "--zstd", "-xf", archive, "-C",
                                           directory().string(), GetParam().name}});
    if (unpacked.status != 0) throw std::runtime_error("tar: " + unpacked.err);
  }

  /// Its three last sectors have no bit.
  [[nodiscard]] static bool is_read_only() { return GetParam().name == "v2-tail"; }

  /// With its backing given: the header names one on another machine.
  [[nodiscard]] Mounted mount() {
    const auto where = directory() / GetParam().name;
    return mount_image((where / "cow").string() + "," + (where / "base").string(), point(),
                       {"-o", is_read_only() ? "ro" : "rw"});
  }
};

/// Of the first `length` bytes. Long holes are not read; other tests read those.
std::string sha256_of(const core::FileDescriptor& file, std::uint64_t length) {
  constexpr std::size_t step = std::size_t{1} << 20;
  const Bytes zeros(step);
  Sha256 sum;
  std::uint64_t data = 0;
  for (std::uint64_t offset = 0; offset < length;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(step, length - offset));
    if (data < offset + count) {
      const int error = error_of([&] { data = seek(file, std::max(data, offset), SEEK_DATA); });
      if (error == ENXIO) data = length;
    }
    if (data >= offset + count) {
      sum.add(std::span(zeros).first(count));
    } else {
      const auto bytes = read_at(file, offset, count);
      if (bytes.size() != count) throw std::runtime_error("short read");
      sum.add(bytes);
    }
    offset += count;
  }
  return sum.finish();
}

TEST_P(MountedFixture, ShowsWhatTheGuestSaw) {
  const auto mounted = mount();
  for (const int flags : {0, O_DIRECT}) {
    const auto file = open_file(mounted.file(), O_RDONLY | flags);
    const auto size = static_cast<std::uint64_t>(status_of(file).st_size);
    EXPECT_EQ(size, (GetParam().backing_size + 511) / 512 * 512);
    EXPECT_EQ(sha256_of(file, size), GetParam().sha256_of_merged);
    const bool is_cut = size != GetParam().backing_size;
    if (is_cut) {
      EXPECT_EQ(sha256_of(file, GetParam().backing_size), GetParam().sha256_of_backing_size);
    }
    if (size > std::uint64_t{1} << 30) break;  // once is enough for the huge one
  }
}

TEST_P(MountedFixture, TakesWritesIfEverySectorHasABit) {
  if (is_read_only()) {
    const auto refused = cowfs({"mount",
                                (directory() / "v2-tail" / "cow").string() + "," +
                                    (directory() / "v2-tail" / "base").string(),
                                point().string()});
    EXPECT_EQ(refused.status, 1);
    return;
  }
  // The first and the last bytes stand for all.
  const auto size = (GetParam().backing_size + 511) / 512 * 512;
  const auto last = size - 5000;
  const auto head = random().bytes(5000);
  const auto tail = random().bytes(5000);
  Bytes middle;
  {
    const auto mounted = mount();
    const auto file = open_file(mounted.file(), O_RDWR);
    middle = read_at(file, 5000, 100'000);
    EXPECT_EQ(write_at(file, 0, head), head.size());
    EXPECT_EQ(write_at(file, last, tail), tail.size());
  }
  const auto mounted = mount();
  const auto file = open_file(mounted.file(), O_RDONLY);
  EXPECT_TRUE(read_at(file, 0, 5000) == head);
  EXPECT_TRUE(read_at(file, last, 5000) == tail);
  EXPECT_TRUE(read_at(file, 5000, 100'000) == middle);
}

INSTANTIATE_TEST_SUITE_P(, MountedFixture, ::testing::ValuesIn(read_expectations()),
                         [](const auto& test) {
                           auto name = test.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Fixtures, AreThere) { EXPECT_GE(read_expectations().size(), 13U); }

}  // namespace
}  // namespace cowfs::tests
