#include "tests/integration/support/prey.hpp"

#include <gtest/gtest.h>
#include <sys/xattr.h>

#include <boost/filesystem.hpp>

#include "tests/integration/support/exported.hpp"
#include "tests/integration/support/file_io.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

constexpr const char* secret = "only root may read this";

void expect_same(const struct stat& now, const struct stat& before, const fs::path& path) {
  EXPECT_EQ(now.st_ino, before.st_ino) << path;
  EXPECT_EQ(now.st_mode, before.st_mode) << path;
  EXPECT_EQ(now.st_uid, before.st_uid) << path;
  EXPECT_EQ(now.st_gid, before.st_gid) << path;
  EXPECT_EQ(now.st_nlink, before.st_nlink) << path;
  EXPECT_EQ(now.st_mtim.tv_sec, before.st_mtim.tv_sec) << path;
  EXPECT_EQ(now.st_mtim.tv_nsec, before.st_mtim.tv_nsec) << path;
  EXPECT_EQ(now.st_ctim.tv_sec, before.st_ctim.tv_sec) << path;
  EXPECT_EQ(now.st_ctim.tv_nsec, before.st_ctim.tv_nsec) << path;
}

}  // namespace

Prey::Prey(fs::path directory) : directory_(std::move(directory)) {
  fs::create_directory(directory_);
  put_content(file(), secret);
  fs::permissions(file(), fs::perms(0600));
  fs::permissions(directory_, fs::perms(0700));
  directory_status_ = status_of(directory_);
  file_status_ = status_of(file());
}

void Prey::expect_untouched() const {
  expect_same(status_of(directory_), directory_status_, directory_);
  expect_same(status_of(file()), file_status_, file());
  EXPECT_EQ(content_of(file()), secret);
  int count = 0;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    EXPECT_EQ(entry.path(), file());
    ++count;
  }
  EXPECT_EQ(count, 1);
}

}  // namespace cowfs::tests
