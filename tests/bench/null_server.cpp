// null-server FILE BYTES: a FUSE server that shows a file of so many bytes on FILE, answers every
// read from memory that is always there, and forgets every write: in cowfs's own session code, the
// limit of FUSE itself. Serves until it is unmounted.

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "fuse/log.hpp"
#include "fuse/mount.hpp"
#include "fuse/session.hpp"

namespace {

using cowfs::fuse::Device;
using cowfs::fuse::FileSystem;
using cowfs::fuse::RequestHandler;
using cowfs::fuse::Session;

using cowfs::fuse::longest_transfer;

template <typename Message>
const Message& message_in(std::span<const std::byte> body) {
  return *reinterpret_cast<const Message*>(body.data());
}

class NullHandler final : public RequestHandler {
 public:
  explicit NullHandler(const Device& device) : device_(device), buffer_(longest_transfer) {}

  bool handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept override {
    switch (header.opcode) {
      case FUSE_OPEN: {
        fuse_open_out out{};
        const bool direct = (message_in<fuse_open_in>(body).flags & O_DIRECT) != 0;
        out.open_flags = direct ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : FOPEN_KEEP_CACHE;
        device_.reply_with(header.unique, out);
        return true;
      }
      case FUSE_READ: {
        const auto length =
            std::min<std::size_t>(message_in<fuse_read_in>(body).size, longest_transfer);
        const iovec piece{buffer_.data(), length};
        device_.reply(header.unique, {&piece, 1});
        return true;
      }
      case FUSE_WRITE:
        device_.reply_with(header.unique, fuse_write_out{message_in<fuse_write_in>(body).size, 0});
        return true;
      default:
        return false;
    }
  }

 private:
  const Device& device_;
  std::vector<std::byte> buffer_;
};

class NullFileSystem final : public FileSystem {
 public:
  explicit NullFileSystem(off_t size) : size_(size) {}

  [[nodiscard]] const fuse_lowlevel_ops& operations() const override {
    static const fuse_lowlevel_ops table = [] {
      fuse_lowlevel_ops ops{};
      ops.getattr = getattr;
      ops.setattr = [](fuse_req_t req, fuse_ino_t node, struct stat* /*wanted*/, int /*to_set*/,
                       fuse_file_info* file) { getattr(req, node, file); };
      ops.flush = [](fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); };
      ops.release = ops.flush;
      ops.fsync = [](fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); };
      return ops;
    }();
    return table;
  }

  [[nodiscard]] std::unique_ptr<RequestHandler> new_handler(const Device& device) override {
    return std::make_unique<NullHandler>(device);
  }

  void negotiate(fuse_conn_info& connection) override {
    cowfs::fuse::allow_parallel_requests(connection);
  }

  [[nodiscard]] std::uint32_t choose_flags2(std::uint32_t /*offered*/) const override { return 0; }

 private:
  static void getattr(fuse_req_t req, fuse_ino_t node, fuse_file_info* /*file*/) {
    struct stat attr {};
    attr.st_ino = node;
    attr.st_mode = S_IFREG | 0600;
    attr.st_nlink = 1;
    attr.st_size = static_cast<NullFileSystem&>(Session::file_system(req)).size_;
    fuse_reply_attr(req, &attr, 1.0);
  }

  const off_t size_;
};

int serve(const std::string& file, off_t size) {
  cowfs::fuse::MountOptions options;
  options.mount_point = file;
  options.source = "null";
  options.subtype = "null";
  const Device device(cowfs::fuse::mount(options));
  cowfs::fuse::SystemLog log;
  NullFileSystem file_system(size);
  Session session(device, file_system, cowfs::fuse::default_threads(), log);
  std::array<std::byte, 1 << 16> request;
  std::size_t length = 0;
  if (device.receive(request, length) != Device::Received::request) return 1;
  session.negotiate(std::span(request).first(length));
  session.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fputs("usage: null-server FILE BYTES\n", stderr);
    return 2;
  }
  return serve(argv[1], std::atoll(argv[2]));
} catch (const std::exception& error) {
  std::fprintf(stderr, "null-server: %s\n", error.what());
  return 1;
}
