// A whole COW file, hostile in any way, opened over a backing and read and written.
//
// The input: a part of the COW file's bytes at its start; read from its end, numbers that make the
// rest: the header's fields (or: the file is the bytes as they are), how long the file is, the
// backing's data, and a script of operations. Whatever file it is, it is refused with DamagedCow or
// does what SparseModel says, and costs no more than what is touched of it.

#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/read_view.hpp"
#include "tests/fuzz/require.hpp"
#include "tests/fuzz/sparse_model.hpp"
#include "tests/support/errors_of.hpp"
#include "tests/support/forwarding_storage.hpp"
#include "tests/support/memory_storage.hpp"

namespace cowfs::tests {
namespace {

constexpr std::size_t longest_operation = 9000;
constexpr int most_operations = 40;

/// What takes time in proportion to the image is not asked of images larger than this.
constexpr std::uint64_t largest_walk = std::uint64_t{1} << 38;

using Bytes = std::vector<std::byte>;

/// A backing: its owner would be astonished if it changed.
class NeverWritten final : public ForwardingStorage {
 public:
  using ForwardingStorage::ForwardingStorage;
  void write(std::uint64_t /*offset*/, std::span<const std::byte> /*from*/) override { refuse(); }
  void punch(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { refuse(); }
  void reserve(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { refuse(); }
  void resize(std::uint64_t /*size*/) override { refuse(); }

 private:
  static void refuse() { require(false, "a backing is never written"); }
};

/// A file that can be opened again: a copy of a file in memory, or, so that it can be mapped, of
/// one that the kernel keeps there.
class File {
 public:
  File(MemoryFile& original, bool is_mappable) {
    if (!is_mappable) {
      memory_ = original.copy();
      return;
    }
    fd_ = core::FileDescriptor(::memfd_create("fuzzed", MFD_CLOEXEC));
    const auto copy = open();
    const auto from = original.open();
    copy->resize(original.size());
    for (auto data = from->next_data(0); data; data = from->next_data(*data)) {
      const auto end = from->next_hole(*data);
      Bytes piece(end - *data);
      from->read(*data, piece);
      copy->write(*data, piece);
      data = end;
    }
  }

  [[nodiscard]] std::unique_ptr<core::Storage> open() const {
    if (memory_) return memory_->open();
    return std::make_unique<core::PosixStorage>(
        core::FileDescriptor(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0)), "fuzzed");
  }

 private:
  std::shared_ptr<MemoryFile> memory_;
  core::FileDescriptor fd_;
};

Bytes consume_bytes(FuzzedDataProvider& input, std::size_t count) {
  return input.ConsumeBytes<std::byte>(count);
}

core::CowHeader consume_header(FuzzedDataProvider& input) {
  core::CowHeader header;
  header.format = static_cast<core::HeaderFormat>(input.ConsumeIntegralInRange(0, 3));
  header.magic_order = header.format == core::HeaderFormat::v1 || input.ConsumeBool()
                           ? core::MagicOrder::little
                           : core::MagicOrder::big;
  header.backing_size =
      input.ConsumeIntegral<std::uint64_t>() >> input.ConsumeIntegralInRange(0, 63);
  header.sector_size = 512U << input.ConsumeIntegralInRange(0, 7);
  header.alignment = 512U << input.ConsumeIntegralInRange(0, 15);
  header.backing_path = "/backing";
  return header;
}

/// Writes pieces of the input's bytes at places that it names, counted from `start`.
void consume_pieces(FuzzedDataProvider& input, core::Storage& file, std::uint64_t start,
                    std::uint64_t length) {
  for (auto count = input.ConsumeIntegralInRange(0, 4); count > 0 && length > 0; --count) {
    const auto at = input.ConsumeIntegral<std::uint64_t>() % length;
    auto bytes = consume_bytes(input, input.ConsumeIntegral<std::uint8_t>());
    if (input.ConsumeBool() && !bytes.empty()) bytes.assign(5000, bytes.front());
    bytes.resize(std::min<std::uint64_t>(bytes.size(), length - at));
    file.write(start + at, bytes);
  }
}

/// A file made from a header that serialize_header takes; its values need not be possible.
void make_file_of_fields(FuzzedDataProvider& input, core::Storage& cow) {
  const auto header = consume_header(input);
  cow.write(0, core::serialize_header(header));
  core::CowLayout layout;
  try {
    layout = core::compute_layout(header, "cow");
  } catch (const core::DamagedCow&) {
    return;
  }
  // Bits first, and what is between them and the data, which nobody may touch.
  const auto bitmap_end = layout.bitmap_offset + layout.bitmap_length;
  consume_pieces(input, cow, layout.bitmap_offset, layout.data_offset - layout.bitmap_offset);
  consume_pieces(input, cow, layout.data_offset, layout.merged_size);
  const auto grow = [&cow](std::uint64_t size) {
    if (size > cow.status().size) cow.resize(size);
  };
  switch (input.ConsumeIntegralInRange(0, 3)) {
    case 0:
      break;
    case 1:
      grow(bitmap_end);
      break;
    case 2:
      grow(layout.data_offset + layout.backing_size);
      break;
    default:
      grow(bitmap_end + input.ConsumeIntegral<std::uint16_t>());
  }
}

/// The image and its model, and the operations on both.
class Machine {
 public:
  Machine(FuzzedDataProvider& input, MemoryFile& cow, MemoryFile& backing,
          const core::CowDescription& description, bool is_mappable, bool read_only)
      : input_(input),
        description_(description),
        layout_(description.layout),
        read_only_(read_only || !layout_.every_sector_has_bit()),
        original_cow_(cow.copy()),
        cow_(cow, is_mappable),
        backing_(backing, is_mappable),
        model_(original_cow_->open(), backing.copy()->open(), layout_),
        view_(longest_operation) {}

  /// False if there is not so much address space.
  bool open() {
    try {
      image_.emplace(cow_.open(), std::make_unique<NeverWritten>(backing_.open()), layout_,
                     read_only_);
      refusing_ = false;
      return true;
    } catch (const std::system_error& error) {
      require(error.code() == std::errc::not_enough_memory, "an image of this size opens");
      return false;
    }
  }

  void run() {
    for (int i = 0; i < most_operations && input_.remaining_bytes() > 0; ++i) operate();
    if (size() > largest_walk) return;
    reopen();
    verify_changes();
    verify_file();
  }

 private:
  [[nodiscard]] std::uint64_t size() const { return layout_.merged_size; }
  [[nodiscard]] bool is_inside(std::uint64_t offset, std::uint64_t length) const {
    return offset <= size() && length <= size() - offset;
  }

  /// An offset that is likely to matter, inside the image or not.
  std::uint64_t pick_offset() {
    const auto value = input_.ConsumeIntegral<std::uint64_t>();
    switch (input_.ConsumeIntegralInRange(0, 4)) {
      case 0:
        return size() == 0 ? 0 : value % size();
      case 1:
        return value % 65536;
      case 2:
        return size() - value % 65536;
      case 3:
        return last_ + value % 8192 - 4096;
      default:
        return value;
    }
  }

  std::size_t pick_length() {
    return input_.ConsumeIntegralInRange<std::size_t>(0, longest_operation);
  }

  void operate() {
    const auto operation = input_.ConsumeIntegralInRange(0, 11);
    const auto offset = pick_offset();
    last_ = offset;
    switch (operation) {
      case 0:
      case 1:
        return read(offset, pick_length());
      case 2:
        return view(offset, pick_length());
      case 3:
      case 4:
        return write(offset, pick_length());
      case 5:
        return zero(offset, pick_length());
      case 6:
        return zero(offset, size() - std::min(offset, size()));
      case 7:
        return reserve(offset, pick_length());
      case 8:
        return look(offset, pick_length());
      case 9:
        if (size() <= largest_walk) image_->flush();
        return;
      case 10:
        if (size() <= largest_walk) reopen();
        return;
      default:
        image_->refuse_writes();
        refusing_ = true;
    }
  }

  /// Calls, and checks that it fails as it should. Returns whether it was to succeed.
  template <typename Call>
  bool attempt(std::uint64_t offset, std::uint64_t length, bool is_change, Call&& call) {
    const bool may_change = !read_only_ && !refusing_;
    const int expected = !is_inside(offset, length) ? EINVAL : is_change && !may_change ? EROFS : 0;
    require(error_of(call) == expected, "an operation fails just when it has to");
    return expected == 0;
  }

  void read(std::uint64_t offset, std::size_t length) {
    Bytes bytes(length, std::byte{0x5a});
    if (attempt(offset, length, false, [&] { image_->read(offset, bytes); })) {
      require(bytes == model_.read(offset, length), "a read sees what the model holds");
    }
  }

  void view(std::uint64_t offset, std::size_t length) {
    if (!attempt(offset, length, false, [&] { image_->view(offset, length, view_); })) return;
    Bytes bytes;
    for (const auto& piece : view_.pieces()) {
      const auto* data = static_cast<const std::byte*>(piece.iov_base);
      bytes.insert(bytes.end(), data, data + piece.iov_len);
    }
    require(bytes == model_.read(offset, length), "a view sees what the model holds");
    view_.clear();
  }

  void write(std::uint64_t offset, std::size_t length) {
    ++writes_;
    Bytes bytes(length);
    for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(writes_ + i / 512);
    if (attempt(offset, length, true, [&] { image_->write(offset, bytes); })) {
      model_.write(offset, bytes);
    }
  }

  void zero(std::uint64_t offset, std::uint64_t length) {
    if (length > longest_operation && size() > largest_walk) return;
    if (attempt(offset, length, true, [&] { image_->zero(offset, length); })) {
      model_.zero(offset, length);
    }
  }

  void reserve(std::uint64_t offset, std::size_t length) {
    attempt(offset, length, true, [&] { image_->reserve(offset, length); });
  }

  void look(std::uint64_t offset, std::size_t length) {
    if (!is_inside(offset, length) || length == 0) return;
    const auto extent = image_->extent(offset, length);
    require(extent.offset == offset && extent.length >= 1 && extent.length <= length,
            "an extent lies in what was asked for");
    if (extent.source == core::Source::zero) require_zeros(offset, extent.length);
    if (size() > largest_walk) return;

    const auto data = image_->next_data(offset);
    require(!data || (*data >= offset && *data < size()), "data lies in the image");
    const auto hole_end = data.value_or(size());
    const auto start = std::min<std::uint64_t>(hole_end - offset, longest_operation);
    require_zeros(offset, start);
    require_zeros(hole_end - start, start);
    const auto hole = image_->next_hole(offset);
    require(hole >= offset && hole <= size(), "a hole lies in the image or at its end");
    require(hole == offset || data == offset, "what is not data is a hole");
    require(image_->sectors().count() <= layout_.sectors_with_bit, "only sectors are counted");
  }

  void require_zeros(std::uint64_t offset, std::uint64_t length) {
    const auto bytes = model_.read(offset, length);
    require(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{}; }),
            "a hole reads as zeros");
  }

  void reopen() {
    image_->flush();
    image_.reset();
    require(open(), "an image opens again");
  }

  /// Every sector that was changed, and its neighbours.
  void verify_changes() {
    for (const auto number : model_.changed()) {
      const auto first = number == 0 ? 0 : number - 1;
      const auto offset = first * core::sector_bytes;
      read(offset, std::min<std::uint64_t>(3 * core::sector_bytes, size() - offset));
    }
  }

  /// What no operation may touch.
  void verify_file() {
    const auto file = cow_.open();
    const auto found = core::describe_cow(*file);
    require(found.header == description_.header && found.layout == layout_,
            "the header stays as it is");
    const auto bitmap_end = layout_.bitmap_offset + layout_.bitmap_length;
    Bytes gap(std::min<std::uint64_t>(layout_.data_offset - bitmap_end, 4096));
    auto before = gap;
    file->read(bitmap_end, gap);
    original_cow_->open()->read(bitmap_end, before);
    require(gap == before, "what is between bitmap and data stays as it is");
    require(file->status().size <=
                std::max(original_cow_->size(), layout_.data_offset + layout_.merged_size),
            "the file grows no further than its data");
  }

  FuzzedDataProvider& input_;
  const core::CowDescription& description_;
  const core::CowLayout& layout_;
  const bool read_only_;
  std::shared_ptr<MemoryFile> original_cow_;
  File cow_;
  File backing_;
  SparseModel model_;
  std::optional<core::CowImage> image_;
  core::ReadView view_;  // ends before the image: it may pin pieces of its files
  bool refusing_ = false;
  unsigned writes_ = 0;
  std::uint64_t last_ = 0;
};

void run(std::span<const std::uint8_t> bytes) {
  FuzzedDataProvider input(bytes.data(), bytes.size());
  const bool is_raw = input.ConsumeBool();
  const bool is_mappable = input.ConsumeIntegralInRange(0, 3) == 3;
  const bool read_only = input.ConsumeIntegralInRange(0, 7) == 7;

  const auto cow = MemoryFile::make("cow", 512);
  const auto cow_file = cow->open();
  if (is_raw) {
    cow_file->write(0, consume_bytes(input, input.ConsumeIntegral<std::uint16_t>()));
  } else {
    make_file_of_fields(input, *cow_file);
  }
  core::CowDescription description;
  try {
    description = core::describe_cow(*cow_file);
  } catch (const core::DamagedCow&) {
    return;
  }
  const auto backing = MemoryFile::make("backing", 512);
  const auto backing_file = backing->open();
  backing_file->resize(description.layout.backing_size);
  consume_pieces(input, *backing_file, 0, description.layout.backing_size);

  Machine machine(input, *cow, *backing, description, is_mappable, read_only);
  if (machine.open()) machine.run();
}

}  // namespace
}  // namespace cowfs::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  cowfs::tests::run({data, size});
  return 0;
}
