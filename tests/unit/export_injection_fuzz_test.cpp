// Requests for an export that are changed at random, by the thousand.
//
// COWFS_INJECTIONS in the environment says how many for each test (20000 unless it is set).

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>

#include "tests/unit/raw_requests.hpp"

namespace cowfs::tests {
namespace {

using hostfs::ExportOptions;

/// Makes requests that are nearly right.
class Fuzzer {
 public:
  explicit Fuzzer(RawGuest& guest) : guest_(guest), opcodes_(opcodes()) {
    for (const auto* name : {"file", "dir", "link", "dirlink", "fifo"}) {
      nodes_.push_back(guest.look_up(FUSE_ROOT_ID, name));
    }
    handles_.push_back(guest.open(nodes_[1], O_RDWR));
    handles_.push_back(guest.open_directory(FUSE_ROOT_ID));
  }

  void send_one() {
    const auto opcode = one_of(opcodes_);
    auto body =
        valid_body(opcode, one_of(handles_), one_of(nodes_), one_of(names_), one_of(names_));
    if (random_.one_in(2)) change(opcode, body);
    auto header = guest_.header_for(opcode, one_of(nodes_), body);
    if (random_.one_in(20)) header.nodeid = one_of(forged_numbers());
    if (random_.one_in(20)) header.total_extlen = 1;
    if (random_.one_in(20)) header.uid = 12345;
    guest_.send(body_of(header, body));
    if (random_.one_in(16)) take_replies();
  }

  void take_replies() {
    for (const auto& reply : guest_.replies_until_now()) learn_from(reply);
  }

 private:
  template <typename Value>
  Value one_of(const std::vector<Value>& values) {
    return values[random_.between(0, values.size() - 1)];
  }

  void change(std::uint32_t opcode, MessageBytes& body) {
    if (body.empty()) return;
    // The host's disk is not to be filled.
    const std::size_t first = opcode == FUSE_FALLOCATE ? 24 : 0;
    for (auto count = random_.between(1, 4); count > 0; --count) {
      const auto at = random_.between(std::min(first, body.size() - 1), body.size() - 1);
      body[at] = random_.one_in(2) ? std::byte{0xff} : random_.bytes(1)[0];
    }
    if (random_.one_in(4)) body.resize(random_.between(0, body.size()));
    if (random_.one_in(8)) body.resize(body.size() + random_.between(1, 5000), std::byte{'y'});
  }

  /// Numbers that were given out are better than made-up ones. Which kind of reply it is, is
  /// guessed.
  void learn_from(const RawReply& reply) {
    if (reply.error != 0) return;
    if (reply.body.size() >= sizeof(fuse_entry_out)) {
      keep(nodes_, reply.as<fuse_entry_out>().nodeid);
    }
    if (reply.body.size() == sizeof(fuse_open_out)) keep(handles_, reply.as<fuse_open_out>().fh);
  }
  void keep(std::vector<std::uint64_t>& numbers, std::uint64_t number) {
    if (numbers.size() < 64) {
      numbers.push_back(number);
    } else {
      numbers[random_.between(1, 63)] = number;
    }
  }

  RawGuest& guest_;
  TestRandom random_;
  const std::vector<std::uint32_t> opcodes_;
  std::vector<std::uint64_t> nodes_{FUSE_ROOT_ID};
  std::vector<std::uint64_t> handles_;
  const std::vector<std::string> names_{"file",       "dir", "link",          "dirlink", "fifo",
                                        "deep",       "new", "made",          "..",      ".",
                                        "../outside", "",    "dirlink/secret"};
};

std::uint64_t fuzz_length() {
  const char* given = std::getenv("COWFS_INJECTIONS");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 20000;
}

class InjectionOfAnything : public Injection,
                            public ::testing::WithParamInterface<hostfs::MetadataPolicy> {
 protected:
  InjectionOfAnything() {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &usual_), 0);
    // A file of any size that a request says would fill the disk, and take time to copy.
    const rlimit small{1 << 20, usual_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    old_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~InjectionOfAnything() override {
    ::setrlimit(RLIMIT_FSIZE, &usual_);
    ::signal(SIGXFSZ, old_);
  }

 private:
  rlimit usual_{};
  void (*old_)(int) = SIG_DFL;
};
INSTANTIATE_TEST_SUITE_P(Metadata, InjectionOfAnything,
                         ::testing::Values(hostfs::MetadataPolicy::host,
                                           hostfs::MetadataPolicy::xattr));

TEST_P(InjectionOfAnything, IsSurvived) {
  ExportOptions options;
  options.metadata = GetParam();
  options.max_inodes = 1000;
  options.max_open = 200;
  RawGuest guest(jail(), options);
  Fuzzer fuzzer(guest);
  for (auto i = fuzz_length(); i > 0; --i) fuzzer.send_one();
  fuzzer.take_replies();
  EXPECT_EQ(guest.ask(FUSE_GETATTR, FUSE_ROOT_ID, body_of(fuse_getattr_in{})).error, 0);
}

TEST_P(InjectionOfAnything, IsSurvivedByManyThreads) {
  ExportOptions options;
  options.metadata = GetParam();
  options.max_inodes = 1000;
  options.max_open = 200;
  RawGuest guest(jail(), options, 4);
  Fuzzer fuzzer(guest);
  for (auto i = fuzz_length() / 2; i > 0; --i) fuzzer.send_one();
  fuzzer.take_replies();
}

}  // namespace
}  // namespace cowfs::tests
