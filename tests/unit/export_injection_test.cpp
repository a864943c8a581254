// Requests that no kernel sends: what an export makes of them is an error, or nothing. None ends
// it, reaches past its message (the sanitizers see that) or touches what lies outside of the
// exported directory.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <boost/filesystem.hpp>
#include <cerrno>
#include <initializer_list>

#include "tests/unit/raw_requests.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
using hostfs::ExportOptions;
using ::testing::AnyOf;

TEST_F(Injection, NodeIdsThatWereNotGivenOutAreNone) {
  RawGuest guest(jail(), {});
  for (const auto opcode : opcodes()) {
    for (const auto node : forged_numbers()) {
      const auto reply =
          guest.try_ask(opcode, node, valid_body(opcode, node, node, "dir", "outside"));
      if (has_no_reply(opcode)) continue;
      ASSERT_TRUE(reply) << opcode;
      EXPECT_NE(reply->error, 0) << opcode << ", node " << node;
    }
  }
}

TEST_F(Injection, NodeIdsThatWereTakenBackAreNone) {
  RawGuest guest(jail(), {});
  const auto node = guest.look_up(FUSE_ROOT_ID, "file");
  ASSERT_NE(node, 0U);
  (void)guest.try_ask(FUSE_FORGET, node, body_of(fuse_forget_in{UINT64_MAX}));
  const auto again = guest.look_up(FUSE_ROOT_ID, "dir");
  EXPECT_NE(again, node);
  for (const auto opcode : opcodes()) {
    if (has_no_reply(opcode)) continue;
    EXPECT_NE(guest.ask(opcode, node, valid_body(opcode, 0, node, "x", "y")).error, 0) << opcode;
  }
  // The root stays whatever is forgotten.
  (void)guest.try_ask(FUSE_FORGET, FUSE_ROOT_ID, body_of(fuse_forget_in{UINT64_MAX}));
  EXPECT_EQ(guest.ask(FUSE_GETATTR, FUSE_ROOT_ID, body_of(fuse_getattr_in{})).error, 0);
}

TEST_F(Injection, HandlesThatAreNotThisNodesAreNone) {
  RawGuest guest(jail(), {});
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  const auto directory = guest.look_up(FUSE_ROOT_ID, "dir");
  const auto opened = guest.open(file, O_RDWR);
  const auto listed = guest.open_directory(directory);
  ASSERT_NE(opened, 0U);
  ASSERT_NE(listed, 0U);
  auto wrong = forged_numbers();
  std::erase(wrong, opened);
  wrong.insert(wrong.end(), {listed, opened + 1, opened + (std::uint64_t{1} << 32)});
  for (const std::uint32_t opcode :
       {FUSE_READ, FUSE_WRITE, FUSE_RELEASE, FUSE_FSYNC, FUSE_FLUSH, FUSE_GETLK, FUSE_SETLK,
        FUSE_FALLOCATE, FUSE_LSEEK, FUSE_COPY_FILE_RANGE}) {
    for (const auto handle : wrong) {
      EXPECT_EQ(guest.ask(opcode, file, valid_body(opcode, handle, file, "", "")).error, EBADF)
          << opcode << ", handle " << handle;
    }
    EXPECT_EQ(guest.ask(opcode, directory, valid_body(opcode, opened, file, "", "")).error, EBADF);
  }
  for (const std::uint32_t opcode :
       {FUSE_READDIR, FUSE_READDIRPLUS, FUSE_RELEASEDIR, FUSE_FSYNCDIR}) {
    EXPECT_EQ(guest.ask(opcode, file, valid_body(opcode, opened, file, "", "")).error, EBADF);
    EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, valid_body(opcode, listed, file, "", "")).error,
              EBADF);
  }
  EXPECT_EQ(guest.ask(FUSE_RELEASE, file, valid_body(FUSE_RELEASE, opened, 0, "", "")).error, 0);
  EXPECT_EQ(guest.ask(FUSE_READ, file, valid_body(FUSE_READ, opened, 0, "", "")).error, EBADF);
  EXPECT_EQ(guest.ask(FUSE_RELEASE, file, valid_body(FUSE_RELEASE, opened, 0, "", "")).error,
            EBADF);
}

TEST_F(Injection, MessagesThatAreCutShortAreRefused) {
  RawGuest guest(jail(), {});
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  const auto handle = guest.open(file, O_RDWR);
  for (const auto opcode : opcodes()) {
    if (opcode == FUSE_INIT) continue;
    const auto whole = valid_body(opcode, handle, FUSE_ROOT_ID, "made", "made too");
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const MessageBytes part(whole.begin(), whole.begin() + static_cast<long>(length));
      (void)guest.try_ask(opcode, FUSE_ROOT_ID, part);
      (void)guest.try_ask(opcode, file, part);
    }
  }
  EXPECT_EQ(guest.ask(FUSE_GETATTR, FUSE_ROOT_ID, body_of(fuse_getattr_in{})).error, 0);
}

TEST_F(Injection, AMessageShorterThanAHeaderIsDropped) {
  RawGuest guest(jail(), {});
  for (std::size_t length = 1; length < sizeof(fuse_in_header); ++length) {
    guest.send(MessageBytes(length, std::byte{1}));
  }
  EXPECT_THAT(guest.replies_until_now(), ::testing::IsEmpty());
}

TEST_F(Injection, LengthsThatLieAreNotBelieved) {
  RawGuest guest(jail(), {});
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  const auto handle = guest.open(file, O_RDWR);
  for (const std::uint32_t said : {0U, 1U, 39U, 41U, 65536U, 0x7fffffffU, 0xffffffffU}) {
    auto header = guest.header_for(FUSE_GETATTR, file, {});
    header.len = said;
    guest.send(body_of(header, fuse_getattr_in{}));
    EXPECT_EQ(guest.replies_until_now().size(), 1U);
    // Of a write, what is there is all that there is.
    fuse_write_in write{};
    write.fh = handle;
    write.size = said;
    const auto written = guest.ask(FUSE_WRITE, file, body_of(write, std::string_view("data")));
    EXPECT_EQ(written.error, said > 5 ? EINVAL : 0) << said;
    fuse_setxattr_in attribute{};
    attribute.size = said;
    EXPECT_NE(guest.ask(FUSE_SETXATTR, file,
                        body_of(attribute, std::string_view("user.a"), std::string_view("v")))
                      .error == 0,
              said > 2)
        << said;
    (void)guest.try_ask(FUSE_BATCH_FORGET, 0,
                        body_of(fuse_batch_forget_in{said, 0}, fuse_forget_one{12345, 1}));
    fuse_read_in read{};
    read.fh = handle;
    read.size = said;
    EXPECT_LE(guest.ask(FUSE_READ, file, body_of(read)).body.size(), std::size_t{19});
    for (const std::uint16_t extensions : {std::uint16_t{1}, std::uint16_t{0xffff}}) {
      const auto body = body_of(fuse_mknod_in{S_IFREG | 0644, 0, 0, 0}, std::string_view("file"));
      auto extended = guest.header_for(FUSE_MKNOD, FUSE_ROOT_ID, body);
      extended.total_extlen = extensions;
      guest.send(body_of(extended, body));
      EXPECT_EQ(guest.replies_until_now().size(), 1U);
    }
  }
}

TEST_F(Injection, ATextWithoutAnEndIsRefused) {
  RawGuest guest(jail(), {});
  MessageBytes endless(3000, std::byte{'x'});
  for (const std::uint32_t opcode :
       {FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR, FUSE_SYMLINK, FUSE_REMOVEXATTR}) {
    EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, endless).error, EINVAL) << opcode;
  }
  EXPECT_EQ(guest.ask(FUSE_SYMLINK, FUSE_ROOT_ID, body_of(std::string_view("x"), endless)).error,
            EINVAL);
  EXPECT_EQ(guest.ask(FUSE_MKDIR, FUSE_ROOT_ID, body_of(fuse_mkdir_in{}, endless)).error, EINVAL);
  EXPECT_EQ(guest
                .ask(FUSE_RENAME, FUSE_ROOT_ID,
                     body_of(fuse_rename_in{FUSE_ROOT_ID}, std::string_view("file"), endless))
                .error,
            EINVAL);
  EXPECT_TRUE(fs::exists(jail() / "file"));
}

TEST_F(Injection, ANameIsOneNameInEveryCall) {
  RawGuest guest(jail(), {});
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  const std::string too_long(256, 'n');
  for (const std::string_view bad :
       {std::string_view(".."), std::string_view("."), std::string_view(""), std::string_view("/"),
        std::string_view("../outside"), std::string_view("dirlink/secret"),
        std::string_view("dir/x"), std::string_view("/etc"), std::string_view("x/"),
        std::string_view(too_long)}) {
    const int error = bad.size() > 255 ? ENAMETOOLONG : EINVAL;
    for (const std::uint32_t opcode : {FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR, FUSE_SYMLINK,
                                       FUSE_MKNOD, FUSE_MKDIR, FUSE_CREATE}) {
      const auto body = valid_body(opcode, 0, file, bad, "target");
      EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, body).error, error) << opcode << " " << bad;
    }
    EXPECT_EQ(guest.ask(FUSE_LINK, FUSE_ROOT_ID, body_of(fuse_link_in{file}, bad)).error, error);
    for (const std::uint32_t opcode : {FUSE_RENAME, FUSE_RENAME2}) {
      const auto from = valid_body(opcode, 0, FUSE_ROOT_ID, bad, "x");
      const auto to = valid_body(opcode, 0, FUSE_ROOT_ID, "file", bad);
      EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, from).error, error) << opcode << " " << bad;
      EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, to).error, error) << opcode << " " << bad;
    }
  }
  EXPECT_TRUE(fs::exists(jail() / "file"));
}

TEST_F(Injection, ALinkIsNoDirectoryAndNoFile) {
  RawGuest guest(jail(), {});
  for (const auto* name : {"link", "dirlink"}) {
    const auto link = guest.look_up(FUSE_ROOT_ID, name);
    ASSERT_NE(link, 0U);
    EXPECT_EQ(guest.ask(FUSE_LOOKUP, link, body_of(std::string_view("secret"))).error, ENOTDIR);
    EXPECT_EQ(guest.ask(FUSE_OPEN, link, body_of(fuse_open_in{O_RDONLY, 0})).error, ELOOP);
    EXPECT_EQ(guest.ask(FUSE_OPENDIR, link, body_of(fuse_open_in{})).error, ENOTDIR);
    for (const std::uint32_t opcode :
         std::initializer_list<std::uint32_t>{FUSE_CREATE, FUSE_MKDIR, FUSE_MKNOD, FUSE_SYMLINK,
                                              FUSE_UNLINK, FUSE_RMDIR, tmpfile_opcode}) {
      const auto body = valid_body(opcode, 0, link, "secret", "x");
      EXPECT_EQ(guest.ask(opcode, link, body).error, ENOTDIR) << opcode;
    }
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    EXPECT_NE(guest.ask(FUSE_SETATTR, link, body_of(in)).error, 0);
    in.valid = FATTR_MODE;
    EXPECT_NE(guest.ask(FUSE_SETATTR, link, body_of(in)).error, 0);
    in.valid = FATTR_MTIME;
    EXPECT_EQ(guest.ask(FUSE_SETATTR, link, body_of(in)).error, 0);  // the link's own
    EXPECT_NE(guest.ask(FUSE_SETXATTR, link, valid_body(FUSE_SETXATTR, 0, 0, "", "")).error, 0);
  }
}

TEST_F(Injection, WhatIsNoFileIsNotOpened) {
  RawGuest guest(jail(), {});
  const auto fifo = guest.look_up(FUSE_ROOT_ID, "fifo");
  for (const unsigned flags :
       std::initializer_list<unsigned>{O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC}) {
    EXPECT_EQ(guest.ask(FUSE_OPEN, fifo, body_of(fuse_open_in{flags, 0})).error, ENXIO);
  }
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE;
  EXPECT_EQ(guest.ask(FUSE_SETATTR, fifo, body_of(in)).error, EINVAL);
  EXPECT_EQ(guest.ask(FUSE_OPEN, FUSE_ROOT_ID, body_of(fuse_open_in{O_RDONLY, 0})).error, EISDIR);
  // "Somebody on the host was quicker": what they made is no file.
  for (const auto* name : {"fifo", "link", "dir"}) {
    const auto body =
        body_of(fuse_create_in{O_RDWR | O_CREAT | O_TRUNC, 0644, 0, 0}, std::string_view(name));
    EXPECT_EQ(guest.ask(FUSE_CREATE, FUSE_ROOT_ID, body).error, EEXIST) << name;
  }
  for (const mode_t kind :
       std::initializer_list<mode_t>{S_IFCHR, S_IFBLK, S_IFDIR, S_IFLNK, S_IFMT}) {
    const auto body = body_of(fuse_mknod_in{kind | 0666, 0x103, 0, 0}, std::string_view("made"));
    EXPECT_NE(guest.ask(FUSE_MKNOD, FUSE_ROOT_ID, body).error, 0) << kind;
  }
  EXPECT_FALSE(fs::exists(jail() / "made"));
}

TEST_F(Injection, FlagsOfTheGuestsDoNotReachTheHost) {
  RawGuest guest(jail(), {});
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  // What would open something else, or make something: O_PATH, O_TMPFILE, O_CREAT, O_DIRECTORY.
  for (const int flags :
       {O_PATH, O_TMPFILE | O_RDWR, O_CREAT | O_RDWR, O_DIRECTORY, -1 & ~O_TRUNC}) {
    const auto reply =
        guest.ask(FUSE_OPEN, file, body_of(fuse_open_in{static_cast<std::uint32_t>(flags), 0}));
    if (reply.error != 0) continue;
    fuse_read_in read{};
    read.fh = reply.as<fuse_open_out>().fh;
    read.size = 7;
    const auto data = guest.ask(FUSE_READ, file, body_of(read));
    EXPECT_TRUE(data.error != 0 || data.body.size() == 7) << flags;
  }
}

TEST_F(Injection, OpcodesThatAreNoneAreRefused) {
  RawGuest guest(jail(), {});
  for (const std::uint32_t opcode : {0U, 7U, 19U, 26U, 37U, 40U, 41U, 48U, 49U, 50U, 53U, 63U, 64U,
                                     65U, 4096U, 0x100001U, 0x7fffffffU, 0xffffffffU}) {
    EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, MessageBytes(200)).error, ENOSYS) << opcode;
  }
}

TEST_F(Injection, AReadOnlyExportRefusesToChangeAnythingByItself) {
  ExportOptions options;
  options.read_only = true;
  RawGuest guest(jail(), options);
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  const auto handle = guest.open(file, O_RDONLY);
  for (const std::uint32_t opcode : std::initializer_list<std::uint32_t>{
           FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME,
           FUSE_RENAME2, FUSE_LINK, FUSE_WRITE, FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_CREATE,
           FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE, tmpfile_opcode}) {
    const auto body = valid_body(opcode, handle, file, "new", "newer");
    EXPECT_EQ(guest.ask(opcode, FUSE_ROOT_ID, body).error, EROFS) << opcode;
  }
  for (const unsigned flags :
       std::initializer_list<unsigned>{O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) {
    EXPECT_EQ(guest.ask(FUSE_OPEN, file, body_of(fuse_open_in{flags, 0})).error, EROFS);
  }
  EXPECT_EQ(names_in(jail()).size(), 5U);
}

TEST_F(Injection, FloodsRunIntoLimitsAndEnd) {
  for (int i = 0; i < 200; ++i) write_file(jail() / std::to_string(i), std::string("x"));
  ExportOptions options;
  options.max_inodes = 100;
  options.max_open = 50;
  RawGuest guest(jail(), options);
  const auto file = guest.look_up(FUSE_ROOT_ID, "file");
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const auto reply = guest.ask(FUSE_LOOKUP, FUSE_ROOT_ID, body_of(std::to_string(i)));
    EXPECT_THAT(reply.error, AnyOf(0, ENFILE));
    refused += reply.error != 0 ? 1 : 0;
  }
  EXPECT_EQ(refused, 101);
  refused = 0;
  for (int i = 0; i < 200; ++i) {
    const auto opcode = i % 2 == 0 ? FUSE_OPEN : FUSE_OPENDIR;
    const auto node = i % 2 == 0 ? file : std::uint64_t{FUSE_ROOT_ID};
    const auto reply = guest.ask(opcode, node, body_of(fuse_open_in{O_RDWR, 0}));
    EXPECT_THAT(reply.error, AnyOf(0, ENFILE));
    refused += reply.error != 0 ? 1 : 0;
  }
  EXPECT_EQ(refused, 150);
  // A file can't be made that could not be opened.
  const auto create = valid_body(FUSE_CREATE, 0, 0, "made", "");
  EXPECT_EQ(guest.ask(FUSE_CREATE, FUSE_ROOT_ID, create).error, ENFILE);
  EXPECT_FALSE(fs::exists(jail() / "made"));
  EXPECT_EQ(guest.ask(FUSE_GETATTR, file, body_of(fuse_getattr_in{})).error, 0);
}

TEST_F(Injection, OwnersOfLocksRunIntoALimit) {
  rlimit usual{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &usual), 0);
  const rlimit few{1024, usual.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  {
    RawGuest guest(jail(), {});
    const auto file = guest.look_up(FUSE_ROOT_ID, "file");
    fuse_lk_in in{};
    in.fh = guest.open(file, O_RDWR);
    in.lk = {0, 0, F_RDLCK, 1};
    int error = 0;
    for (in.owner = 1; in.owner < 2000 && error == 0; ++in.owner) {
      error = guest.ask(FUSE_SETLK, file, body_of(in)).error;
    }
    EXPECT_EQ(error, ENOLCK);
    // Those that wait are bounded too, and are told.
    in.lk.type = F_WRLCK;
    std::size_t refused = 0;
    for (int i = 0; i < 2000; ++i) {
      const auto reply = guest.try_ask(FUSE_SETLKW, file, body_of(in));
      refused += reply && reply->error == ENOLCK ? 1 : 0;
    }
    EXPECT_GT(refused, 0U);
    EXPECT_EQ(guest.ask(FUSE_GETATTR, file, body_of(fuse_getattr_in{})).error, 0);
  }
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &usual), 0);
}

}  // namespace
}  // namespace cowfs::tests
