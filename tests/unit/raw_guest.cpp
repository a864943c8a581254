#include "tests/unit/raw_guest.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace cowfs::tests {
namespace {

/// After this long there will be no reply. Nothing is measured.
constexpr int give_up_after_milliseconds = 60000;

class NoLog final : public fuse::Log {
 public:
  void info(const std::string& /*line*/) override {}
  void warning(const std::string& /*line*/) override {}
  void error(const std::string& /*line*/) override {}
};

core::FileDescriptor checked(int fd) {
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "raw guest");
  return core::FileDescriptor(fd);
}

/// What a kernel of Linux 6.18 offers.
MessageBytes init_request() {
  fuse_in_header header{};
  header.opcode = FUSE_INIT;
  header.unique = 1;
  header.len = sizeof header + sizeof(fuse_init_in);
  fuse_init_in in{};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = 45;
  in.max_readahead = 131072;
  in.flags = 0x73fffffb;
  in.flags2 = 0xff;
  return body_of(header, in);
}

}  // namespace

RawGuest::RawGuest(const boost::filesystem::path& directory, const hostfs::ExportOptions& options,
                   unsigned threads)
    : log_(std::make_unique<NoLog>()) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) (void)checked(-1);
  socket_ = core::FileDescriptor(ends[0]);
  device_ = std::make_unique<fuse::Device>(core::FileDescriptor(ends[1]));
  hostfs::ExportSetup setup;
  setup.options = options;
  setup.options.sandbox = hostfs::SandboxKind::none;
  setup.root = checked(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  setup.own_files = checked(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  setup.host_path = directory.string();
  file_system_ = std::make_unique<hostfs::ExportFileSystem>(std::move(setup), *device_, *log_);
  session_ = std::make_unique<fuse::Session>(*device_, *file_system_, threads, *log_);
  auto init = init_request();
  session_->negotiate(init);
  if (receive().error != 0) throw std::runtime_error("the export refuses INIT");
  serving_ = std::thread([this] { session_->run(); });
}

RawGuest::~RawGuest() {
  ::shutdown(socket_.get(), SHUT_RDWR);
  serving_.join();
}

fuse_in_header RawGuest::header_for(std::uint32_t opcode, std::uint64_t node,
                                    const MessageBytes& body) {
  fuse_in_header header{};
  header.len = static_cast<std::uint32_t>(sizeof header + body.size());
  header.opcode = opcode;
  header.unique = next_unique_;
  next_unique_ += 2;
  header.nodeid = node;
  return header;
}

void RawGuest::send(const MessageBytes& message) const {
  if (::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL) < 0) (void)checked(-1);
}

RawReply RawGuest::receive() const {
  static thread_local std::array<std::byte, std::size_t{1} << 18> buffer;
  pollfd ready{socket_.get(), POLLIN, 0};
  if (::poll(&ready, 1, give_up_after_milliseconds) != 1) throw std::runtime_error("no reply");
  const auto count = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
  if (count < static_cast<ssize_t>(sizeof(fuse_out_header))) throw std::runtime_error("no header");
  fuse_out_header header{};
  std::memcpy(&header, buffer.data(), sizeof header);
  if (header.len != static_cast<std::size_t>(count)) throw std::runtime_error("a wrong length");
  return {header.unique, -header.error, {&buffer[sizeof header], &buffer[header.len]}};
}

std::vector<RawReply> RawGuest::replies_until_now() {
  const auto last = header_for(FUSE_STATFS, FUSE_ROOT_ID, {});
  send(body_of(last));
  std::vector<RawReply> replies;
  for (;;) {
    auto reply = receive();
    if (reply.unique == last.unique) return replies;
    replies.push_back(std::move(reply));
  }
}

std::optional<RawReply> RawGuest::try_ask(std::uint32_t opcode, std::uint64_t node,
                                          const MessageBytes& body) {
  const auto header = header_for(opcode, node, body);
  send(body_of(header, body));
  for (auto& reply : replies_until_now()) {
    if (reply.unique == header.unique) return std::move(reply);
  }
  return std::nullopt;
}

RawReply RawGuest::ask(std::uint32_t opcode, std::uint64_t node, const MessageBytes& body) {
  const auto header = header_for(opcode, node, body);
  send(body_of(header, body));
  for (;;) {  // several threads answer in any order
    auto reply = receive();
    if (reply.unique == header.unique) return reply;
  }
}

std::uint64_t RawGuest::look_up(std::uint64_t parent, std::string_view name) {
  return ask(FUSE_LOOKUP, parent, body_of(name)).as<fuse_entry_out>().nodeid;
}

std::uint64_t RawGuest::open(std::uint64_t node, std::uint32_t flags) {
  return ask(FUSE_OPEN, node, body_of(fuse_open_in{flags, 0})).as<fuse_open_out>().fh;
}

std::uint64_t RawGuest::open_directory(std::uint64_t node) {
  return ask(FUSE_OPENDIR, node, body_of(fuse_open_in{})).as<fuse_open_out>().fh;
}

}  // namespace cowfs::tests
