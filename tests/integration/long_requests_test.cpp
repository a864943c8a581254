// A mount that was agreed on with longer requests than this version's, as a version before it made
// them, and that this one takes over.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cowcore/cow_image.hpp"
#include "cowcore/open_cow.hpp"
#include "fuse/backing_guard.hpp"
#include "fuse/device.hpp"
#include "fuse/image_file_system.hpp"
#include "fuse/mount.hpp"
#include "fuse/session.hpp"
#include "tests/integration/support/file_io.hpp"
#include "tests/integration/support/mounted.hpp"

namespace cowfs::tests {
namespace {

constexpr std::uint64_t image_size = std::uint64_t{4} << 20;

class QuietLog final : public fuse::Log {
 public:
  void info(const std::string& /*line*/) override {}
  void warning(const std::string& /*line*/) override {}
  void error(const std::string& line) override { ADD_FAILURE() << line; }
};

/// Answers the kernel's first request as the version before would, and returns it.
Bytes agree_on_long_requests(const fuse::Device& device) {
  Bytes request(65536);
  std::size_t length = 0;
  if (device.receive(request, length) != fuse::Device::Received::request) {
    throw std::runtime_error("no first request");
  }
  request.resize(length);
  const auto& header = *reinterpret_cast<const fuse_in_header*>(request.data());
  if (header.opcode != FUSE_INIT) throw std::runtime_error("the first request is not FUSE_INIT");
  fuse_init_out reply{};
  reply.major = FUSE_KERNEL_VERSION;
  reply.minor = FUSE_KERNEL_MINOR_VERSION;
  reply.flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_READ;
  reply.max_readahead = fuse::longest_agreed_transfer;
  reply.max_write = fuse::longest_agreed_transfer;
  reply.max_pages = static_cast<std::uint16_t>(fuse::longest_agreed_transfer / 4096);
  reply.time_gran = 1;
  if (device.reply_with(header.unique, reply) != fuse::Delivery::delivered) {
    throw std::runtime_error("the first answer is refused");
  }
  return request;
}

/// Notes the longest requests.
class NotingFileSystem final : public fuse::ImageFileSystem {
 public:
  using ImageFileSystem::ImageFileSystem;

  [[nodiscard]] std::uint32_t longest_read() const { return longest_read_; }
  [[nodiscard]] std::uint32_t longest_write() const { return longest_write_; }

  [[nodiscard]] std::unique_ptr<fuse::RequestHandler> new_handler(
      const fuse::Device& device) override {
    return std::make_unique<Handler>(*this, ImageFileSystem::new_handler(device));
  }

 private:
  class Handler final : public fuse::RequestHandler {
   public:
    Handler(NotingFileSystem& owner, std::unique_ptr<fuse::RequestHandler> inner)
        : owner_(owner), inner_(std::move(inner)) {}
    bool handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept override {
      if (header.opcode == FUSE_READ) {
        note(owner_.longest_read_, reinterpret_cast<const fuse_read_in*>(body.data())->size);
      } else if (header.opcode == FUSE_WRITE) {
        note(owner_.longest_write_, reinterpret_cast<const fuse_write_in*>(body.data())->size);
      }
      return inner_->handle(header, body);
    }

   private:
    static void note(std::atomic<std::uint32_t>& longest, std::uint32_t size) {
      for (auto known = longest.load(); known < size;) longest.compare_exchange_weak(known, size);
    }

    NotingFileSystem& owner_;
    std::unique_ptr<fuse::RequestHandler> inner_;
  };

  std::atomic<std::uint32_t> longest_read_ = 0;
  std::atomic<std::uint32_t> longest_write_ = 0;
};

/// Takes the mount away when it goes, which ends who serves it.
class Unmounting {
 public:
  explicit Unmounting(boost::filesystem::path point) : point_(std::move(point)) {}
  Unmounting(const Unmounting&) = delete;
  Unmounting& operator=(const Unmounting&) = delete;
  ~Unmounting() {
    try {
      fuse::unmount(point_, fuse::Detach::by_force);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }

 private:
  boost::filesystem::path point_;
};

class LongRequests : public MountTest {};

TEST_F(LongRequests, OfAMountThatIsTakenOverAreServed) {
  const auto files = make_files(image_size);
  auto opened = core::open_cow(files.cow, std::nullopt, core::Access::read_write, std::nullopt);
  core::CowImage image(std::move(opened.cow), std::move(opened.backing), opened.layout, false);
  QuietLog log;
  const fuse::Device device(
      fuse::mount({.mount_point = point(), .source = "cowfs", .subtype = "cowfs"}));
  auto init = agree_on_long_requests(device);
  fuse::BackingGuard guard(image, opened.header, fuse::BackingChange::warn, log);
  NotingFileSystem file_system(image, device, fuse::RootKind::file, {}, guard, log);
  file_system.assume_cached_opens();
  fuse::Session session(device, file_system, 3, log);
  session.negotiate(init);
  const std::jthread server([&] { session.run(); });
  const Unmounting at_end(point());
  {
    const auto file = open_file(point(), O_RDWR | O_DIRECT);
    auto expected = files.content;
    const auto bytes = random().bytes(fuse::longest_agreed_transfer);
    for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{2} << 20}) {
      ASSERT_EQ(write_at(file, offset, bytes), bytes.size());
      std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    EXPECT_EQ(read_at(file, 0, image_size), expected);
  }
  EXPECT_GT(file_system.longest_write(), fuse::longest_transfer);
  EXPECT_GT(file_system.longest_read(), fuse::longest_transfer);
}

}  // namespace
}  // namespace cowfs::tests
