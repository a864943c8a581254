// What an export makes of names, numbers and messages, before any of it reaches a file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cerrno>
#include <limits>

#include "hostfs/file_locks.hpp"
#include "hostfs/id_map.hpp"
#include "hostfs/message.hpp"
#include "hostfs/metadata.hpp"
#include "hostfs/names.hpp"
#include "tests/support/errors_of.hpp"

namespace cowfs::tests {
namespace {

using namespace hostfs;
using ::testing::Eq;
using ::testing::Optional;

MessageReader reader_of(const std::string& text) {
  return MessageReader(std::as_bytes(std::span(text)));
}

TEST(Message, GivesNothingBeyondItsEnd) {
  const std::string short_one = "abc";
  EXPECT_EQ(error_of([&] { (void)reader_of(short_one).take<std::uint32_t>(); }), EINVAL);
  EXPECT_EQ(error_of([&] { (void)reader_of(short_one).take_text(); }), EINVAL);
  EXPECT_EQ(error_of([&] { (void)reader_of(short_one).take_bytes(4); }), EINVAL);
  EXPECT_EQ(error_of([&] { (void)reader_of(short_one).take_bytes(SIZE_MAX); }), EINVAL);
}

TEST(Message, GivesTextsOneAfterTheOther) {
  const std::string two("one\0two\0rest", 12);
  auto reader = reader_of(two);
  EXPECT_EQ(reader.take_text(), "one");
  EXPECT_EQ(reader.take_text(), "two");
  EXPECT_EQ(reader.rest().size(), 4U);
  EXPECT_EQ(error_of([&] { (void)reader.take_text(); }), EINVAL);
}

TEST(Name, IsOneComponent) {
  for (const auto* good : {"a", "...", ".hidden", "..x", "a b", "\xff\x01"}) {
    EXPECT_STREQ(checked_name(good), good);
  }
  for (const auto* bad : {"", ".", "..", "/", "a/b", "/a", "a/", "../a"}) {
    EXPECT_EQ(error_of([&] { (void)checked_name(bad); }), EINVAL) << bad;
  }
  EXPECT_EQ(error_of([] { (void)checked_name(std::string_view("a\0b", 3)); }), EINVAL);
  const std::string longest(255, 'x');
  EXPECT_EQ(checked_name(longest), longest);
  EXPECT_EQ(error_of([] { (void)checked_name(std::string(256, 'x')); }), ENAMETOOLONG);
}

TEST(Xattrs, AreThoseOfThePolicyAndNeverTheExportsOwn) {
  EXPECT_TRUE(is_permitted_xattr("user.a", XattrPolicy::user));
  EXPECT_FALSE(is_permitted_xattr("user.a", XattrPolicy::none));
  EXPECT_FALSE(is_permitted_xattr("system.posix_acl_access", XattrPolicy::user));
  EXPECT_TRUE(is_permitted_xattr("system.posix_acl_access", XattrPolicy::acl));
  for (const auto policy : {XattrPolicy::none, XattrPolicy::user, XattrPolicy::acl}) {
    for (const auto* name :
         {"user.cowfs.metadata", "user.cowfs.", "trusted.a", "security.capability",
          "security.selinux", "system.other", "user", "", "User.a"}) {
      EXPECT_FALSE(is_permitted_xattr(name, policy)) << name;
    }
  }
  const std::string list("user.a\0trusted.b\0user.cowfs.metadata\0user.c\0", 44);
  EXPECT_EQ(permitted_xattrs(list, XattrPolicy::user), std::string("user.a\0user.c\0", 14));
  EXPECT_EQ(permitted_xattrs("user.unterminated", XattrPolicy::user).size(), 18U);
}

TEST(Links, StayInsideAtEveryStep) {
  EXPECT_TRUE(stays_inside("a/b", 0));
  EXPECT_TRUE(stays_inside("..", 1));
  EXPECT_TRUE(stays_inside("./../.././a/b/.", 2));
  EXPECT_FALSE(stays_inside("..", 0));
  EXPECT_FALSE(stays_inside("a/../b", 5));  // "a" may be a link
  EXPECT_FALSE(stays_inside("../..", 1));
  EXPECT_FALSE(stays_inside("a/../../host/file", 0));
  EXPECT_FALSE(stays_inside("a//..//../b", 0));
}

TEST(Links, AbsoluteOnesAreSeenFromTheRoot) {
  EXPECT_EQ(seen_from_root("/srv/a/b", "/srv/a"), "/b");
  EXPECT_EQ(seen_from_root("/srv/a", "/srv/a"), "/");
  EXPECT_EQ(seen_from_root("/any", "/"), "/any");
  for (const auto* out : {"/srv/ab", "/srv", "/etc/passwd", "/srv/a/../b", "/srv/a/x/../../b"}) {
    EXPECT_EQ(error_of([&] { (void)seen_from_root(out, "/srv/a"); }), EPERM) << out;
  }
  EXPECT_EQ(seen_from_host("/b", "/srv/a"), "/srv/a/b");
  EXPECT_EQ(seen_from_host("/b", "/"), "/b");
  EXPECT_EQ(error_of([] { (void)seen_from_host("/../b", "/srv/a"); }), EPERM);
}

TEST(IdRange, IsThreeNumbers) {
  const auto range = parse_id_range("0:100000:65536");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->outside, 100000U);
  for (const auto* bad : {"", "1", "1:2", "1:2:0", "1:2:3:4", "-1:2:3", "1:2:x", "a:2:3",
                          "4294967295:0:1", "0:4294967290:10", "1: 2:3", "99999999999:0:1"}) {
    EXPECT_FALSE(parse_id_range(bad)) << bad;
  }
}

TEST(IdMap, MapsBothWaysAndNothingElse) {
  IdMap map;
  EXPECT_EQ(map.shown(5), 5U);
  EXPECT_TRUE(map.add({0, 1000, 10}));
  EXPECT_TRUE(map.add({100, 2000, 1}));
  EXPECT_FALSE(map.add({5, 5000, 1}));
  EXPECT_FALSE(map.add({50, 1009, 1}));
  EXPECT_EQ(map.shown(1009), 9U);
  EXPECT_EQ(map.shown(1010), unmapped_id);
  EXPECT_EQ(map.shown(2000), 100U);
  EXPECT_THAT(map.on_host(9), Optional(Eq(1009U)));
  EXPECT_FALSE(map.on_host(10));
}

TEST(Metadata, IsReadBackAndNothingElseIs) {
  const hostfs::Metadata metadata{S_IFCHR | 04755, 1, 4294967294U, 0x103};
  EXPECT_EQ(encode_metadata(metadata), "1 24755 1 4294967294 259");
  EXPECT_THAT(decode_metadata(encode_metadata(metadata)), Optional(metadata));
  for (const auto* bad : {"", "1", "2 100644 0 0 0", "1 100644 0 0", "1 100644 0 0 0 ",
                          "1 100644 0 0 0 0", "1 7777777 0 0 0", "1 100648 0 0 0", "1 -1 0 0 0"}) {
    EXPECT_FALSE(decode_metadata(bad)) << bad;
  }
  EXPECT_TRUE(may_stand_for(S_IFDIR, S_IFDIR));
  EXPECT_FALSE(may_stand_for(S_IFREG, S_IFDIR));
  EXPECT_FALSE(may_stand_for(S_IFDIR, S_IFLNK));
  EXPECT_TRUE(may_stand_for(S_IFREG, S_IFLNK));
  EXPECT_EQ(host_device(message_device(makedev(254, 70000))), makedev(254, 70000));
}

TEST(LockMessage, IsTheHosts) {
  const auto lock = host_lock({10, 19, F_WRLCK, 0});
  EXPECT_EQ(lock.l_start, 10);
  EXPECT_EQ(lock.l_len, 10);
  constexpr auto end = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  EXPECT_EQ(host_lock({10, end, F_RDLCK, 0}).l_len, 0);
  EXPECT_EQ(host_lock({0, UINT64_MAX, F_UNLCK, 0}).l_len, 0);
  EXPECT_EQ(error_of([] { (void)host_lock({20, 10, F_WRLCK, 0}); }), EINVAL);
  EXPECT_EQ(error_of([] { (void)host_lock({UINT64_MAX, UINT64_MAX, F_WRLCK, 0}); }), EINVAL);
  EXPECT_EQ(error_of([] { (void)host_lock({0, 10, 99, 0}); }), EINVAL);
}

}  // namespace
}  // namespace cowfs::tests
