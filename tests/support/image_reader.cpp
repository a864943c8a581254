#include "tests/support/image_reader.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "cowcore/guarded_memory.hpp"

namespace cowfs::tests {
namespace {

[[noreturn]] void fail(const char* action) {
  throw std::system_error(errno, std::generic_category(), action);
}

}  // namespace

ViewReader::ViewReader(std::size_t longest)
    : view_(longest), copy_(::memfd_create("copy", MFD_CLOEXEC)) {
  if (!copy_) fail("memfd_create");
  core::guard_mapped_memory();
}

std::vector<std::byte> ViewReader::read(core::CowImage& image, std::uint64_t offset,
                                        std::size_t length) {
  image.view(offset, length, view_);
  pieces_ = view_.pieces().size();
  try {
    auto bytes = copy_view(length);
    view_.clear();  // the image may go before this reader does
    return bytes;
  } catch (...) {
    view_.clear();
    throw;
  }
}

std::vector<std::byte> ViewReader::copy_view(std::size_t length) const {
  const auto pieces = view_.pieces();
  std::size_t total = 0;
  for (const auto& piece : pieces) total += piece.iov_len;
  if (total != length) {
    throw std::logic_error(fmt::format("a view of {} bytes instead of {}", total, length));
  }
  std::vector<std::byte> bytes(length);
  if (length == 0) return bytes;
  const auto written = ::pwritev(copy_.get(), pieces.data(), static_cast<int>(pieces.size()), 0);
  if (written < 0) fail("writev of a view");
  // The kernel stops at a page that can't be had; a server would see its whole reply refused.
  if (static_cast<std::size_t>(written) != length) {
    errno = EFAULT;
    fail("writev of a view stopped early");
  }
  if (::pread(copy_.get(), bytes.data(), length, 0) != written) fail("pread");
  return bytes;
}

std::vector<std::byte> read_image(const core::CowImage& image, std::uint64_t offset,
                                  std::size_t length) {
  // Anything but zero: a byte that is not filled must not look like one that is.
  std::vector<std::byte> bytes(length, std::byte{0xa5});
  image.read(offset, bytes);
  return bytes;
}

std::vector<std::byte> read_all(const core::CowImage& image) {
  return read_image(image, 0, image.size());
}

std::string difference(const std::vector<std::byte>& found, const std::vector<std::byte>& expected,
                       std::uint64_t offset) {
  if (found.size() != expected.size()) {
    return fmt::format("{} bytes, expected {}", found.size(), expected.size());
  }
  // Quick also where nothing is optimized.
  if (found.empty() || std::memcmp(found.data(), expected.data(), found.size()) == 0) {
    return "the same";
  }
  const auto [one, other] = std::ranges::mismatch(found, expected);
  const auto at = offset + static_cast<std::uint64_t>(one - found.begin());
  return fmt::format("byte {} (sector {}, {} in it): {:02x}, expected {:02x}", at,
                     at / core::sector_bytes, at % core::sector_bytes,
                     std::to_integer<unsigned>(*one), std::to_integer<unsigned>(*other));
}

}  // namespace cowfs::tests
