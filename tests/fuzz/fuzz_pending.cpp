// What a killed daemon has left, hostile in any way: a pending file that is cut, foreign, of
// another time, or no file at all, beside a COW whose times are anything.
//
// The input: bytes for the files at its start; read from its end, numbers that make the COW, say
// for each part of the pending file whether it is right or fuzzed (or nothing behind the first
// comparison would be reached), and choose what is done. Real files, in TMPDIR: a tmpfs is quick.

#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/pending_format.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/sector_map.hpp"
#include "tests/fuzz/require.hpp"

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;
namespace pending = core::pending;
using Bytes = std::vector<std::byte>;
using State = core::LeftBehind::State;

/// The directory for the files of this process, removed at its end.
class Workplace {
 public:
  Workplace() : path_(fs::temp_directory_path() / fs::unique_path("fuzz-pending-%%%%%%%%")) {
    fs::create_directory(path_);
    fs::create_directory(run());
    fs::permissions(run(), fs::owner_all);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  ~Workplace() {
    boost::system::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  [[nodiscard]] fs::path cow() const { return path_ / "cow"; }
  [[nodiscard]] fs::path run() const { return path_ / "run"; }

 private:
  fs::path path_;
};

/// Opens a file, made or emptied, for writing.
std::unique_ptr<core::PosixStorage> make_file(const fs::path& path) {
  core::FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  require(static_cast<bool>(fd), "TMPDIR takes files");
  return std::make_unique<core::PosixStorage>(std::move(fd), path.string());
}

Bytes content_of(const core::Storage& file) {
  Bytes bytes(file.status().size);
  file.read(0, bytes);
  return bytes;
}

/// Writes pieces of the input's bytes at places that it names, counted from `start`.
void consume_pieces(FuzzedDataProvider& input, core::Storage& file, std::uint64_t start,
                    std::uint64_t length) {
  for (auto count = input.ConsumeIntegralInRange(0, 4); count > 0; --count) {
    const auto at = input.ConsumeIntegral<std::uint16_t>() % length;
    auto bytes = input.ConsumeBytes<std::byte>(input.ConsumeIntegral<std::uint8_t>());
    bytes.resize(std::min<std::uint64_t>(bytes.size(), length - at));
    file.write(start + at, bytes);
  }
}

/// Replaces a part of a file's header, now and then; returns whether it was left as it is.
template <typename Field>
bool leave(FuzzedDataProvider& input, Field& field) {
  if (input.ConsumeIntegral<std::uint8_t>() < 240) return true;
  auto fuzzed = field;
  input.ConsumeData(&fuzzed, sizeof fuzzed);
  const bool same = fuzzed == field;
  field = fuzzed;
  return same;
}

std::int64_t consume_time(FuzzedDataProvider& input, std::int64_t now) {
  switch (input.ConsumeIntegralInRange(0, 3)) {
    case 0:
      return 0;
    case 1:
      return now;
    case 2: {
      std::int64_t near = now;
      if (__builtin_add_overflow(now, input.ConsumeIntegral<std::int32_t>(), &near)) return now;
      return near;
    }
    default:
      return input.ConsumeIntegral<std::int64_t>();
  }
}

class Case {
 public:
  Case(FuzzedDataProvider& input, const Workplace& place)
      : input_(input), place_(place), cow_(make_file(place.cow())) {
    make_cow();
    make_pending();
    before_ = content_of(*cow_);
  }

  void run() {
    const auto left = core::find_left_behind(place_.run(), *cow_, found_);
    check(left);
    const auto again = core::find_left_behind(place_.run(), *cow_, found_);
    require(again.state == left.state && again.sectors == left.sectors, "looking changes nothing");
    require_cow(before_, "looking leaves the COW as it is");
    switch (input_.ConsumeIntegralInRange(0, 4)) {
      case 0:
      case 1:
        return apply(left);
      case 2:
        return settle(left, core::Access::read_write);
      case 3:
        return settle(left, core::Access::read_only);
      default:
        return adopt();
    }
  }

 private:
  enum class Kind { missing, link, fifo, directory, regular };

  void make_cow() {
    auto& header = found_.header;
    header.format = static_cast<core::HeaderFormat>(input_.ConsumeIntegralInRange(0, 3));
    if (header.format == core::HeaderFormat::v1) header.magic_order = core::MagicOrder::little;
    header.backing_size = input_.ConsumeIntegralInRange(1U, 1U << 26);
    header.backing_path = "/backing";
    cow_->write(0, core::serialize_header(header));
    const auto layout = core::compute_layout(header, "cow");
    const auto bitmap_end = layout.bitmap_offset + layout.bitmap_length;
    cow_->resize(bitmap_end);
    if (layout.bitmap_length > 0) {
      consume_pieces(input_, *cow_, layout.bitmap_offset, layout.bitmap_length);
    }
    found_ = core::describe_cow(*cow_);
    words_ = core::SectorMap::words_for(found_.layout);
    if (input_.ConsumeIntegralInRange(0, 3) != 3) return;
    const timespec modified{input_.ConsumeIntegral<std::int64_t>(), 5};
    const std::array times{timespec{0, UTIME_OMIT}, modified};
    // The file system may refuse a time that it can't store: then the file keeps its own.
    static_cast<void>(::futimens(cow_->descriptor(), times.data()));
  }

  void make_pending() {
    file_ = place_.run() / pending::name_for(cow_->status().identity);
    fs::remove(file_);
    switch (input_.ConsumeIntegral<std::uint8_t>()) {
      case 0xff:
        kind_ = Kind::missing;
        return;
      case 0xfe:
        kind_ = Kind::link;
        return fs::create_symlink(place_.cow(), file_);
      case 0xfd:
        kind_ = Kind::fifo;
        return require(::mkfifo(file_.c_str(), 0600) == 0, "TMPDIR takes FIFOs");
      case 0xfc:
        kind_ = Kind::directory;
        fs::create_directory(file_);
        return;
      default:
        return make_regular();
    }
  }

  void make_regular() {
    const auto file = make_file(file_);
    auto head = pending::header_for(*cow_, words_);
    is_ours_ = leave(input_, head.magic) && leave(input_, head.boot_id) &&
               leave(input_, head.cow.device) && leave(input_, head.cow.inode) &&
               leave(input_, head.cow_born) && leave(input_, head.words);
    leave(input_, head.failed);
    leave(input_, head.writes_under_way);
    const auto now = pending::nanoseconds(cow_->status().modified);
    head.last_begin = consume_time(input_, now);
    head.last_end = consume_time(input_, now);
    head_ = head;
    auto bytes = pending::first_bytes(*cow_, found_);
    same_cow_header_ = leave(input_, bytes.at(input_.ConsumeIntegral<std::uint8_t>()));
    file->write(0, std::as_bytes(std::span(&head, 1)));
    file->write(pending::cow_header_at, bytes);
    file->resize(pending::file_size(words_));
    if (words_ > 0) consume_pieces(input_, *file, pending::words_at, words_ * 8);
    auto size = static_cast<std::uint16_t>(pending::file_size(words_));
    if (!leave(input_, size)) {
      is_ours_ = false;
      file->resize(size);
    }
    bits_ = content_of(*file);
    bits_.erase(bits_.begin(), bits_.begin() + static_cast<std::ptrdiff_t>(
                                                   std::min(bits_.size(), pending::words_at)));
  }

  void check(const core::LeftBehind& left) const {
    const bool is_file = kind_ == Kind::regular;
    require(kind_ != Kind::missing || left.state == State::nothing, "no file, nothing left");
    require(is_file || kind_ == Kind::missing || left.state == State::damaged,
            "what is no regular file is damaged");
    require(is_file || left.sectors == 0, "bits come from a file");
    const bool has_a_say = left.state == State::applicable || left.state == State::conflict ||
                           left.state == State::failed;
    require(!has_a_say || is_ours_, "bits of another COW are worth nothing");
    if (left.state != State::applicable) return;
    require(left.sectors > 0 && same_cow_header_ && head_.failed == 0,
            "bits are applied to the COW that they are for");
    const std::int64_t written = cow_->status().modified.tv_sec;
    constexpr auto end_of_time = std::numeric_limits<std::int64_t>::max() / 1'000'000'000;
    const auto slack = std::max(head_.last_begin, head_.last_end) / 1'000'000'000 + 3;
    require(std::min(written, end_of_time) <= slack,
            "bits are not applied to a COW that was written later");
  }

  void apply(const core::LeftBehind& left) {
    try {
      core::apply_left_behind(left, *cow_, found_);
    } catch (const core::Error&) {
      require(!is_ours_ || left.state == State::nothing, "what is this COW's can be applied");
      return require_cow(before_, "what can't be applied changes nothing");
    }
    require_applied();
  }

  void settle(const core::LeftBehind& left, core::Access access) {
    try {
      static_cast<void>(core::settle_left_behind(place_.run(), *cow_, found_, access));
    } catch (const core::Error&) {
      require(left.state != State::nothing && left.state != State::stale,
              "the user is asked only where there is a choice");
      require(fs::symlink_status(file_).type() != fs::file_not_found, "nothing is dropped unasked");
      return require_cow(before_, "a refusal changes nothing");
    }
    if (left.state == State::applicable) return require_applied();
    require(left.state == State::nothing || left.state == State::stale, "only that can be settled");
    require_cow(before_, "what is dropped changes nothing");
    require(!fs::exists(file_), "what is settled is gone");
  }

  /// A new worker takes the file over and shows its bits as they are.
  void adopt() {
    std::unique_ptr<core::PendingFile> taken;
    try {
      taken = std::make_unique<core::PendingFile>(place_.run(), *cow_, found_,
                                                  core::PendingFile::Existing::adopt);
    } catch (const core::Error&) {
      return require(!is_ours_, "a worker's own file is taken over");
    } catch (const std::system_error&) {
      return require(kind_ != Kind::regular, "a regular file can be taken over");
    }
    require(is_ours_, "only a worker's own file is taken over");
    const core::SectorMap map(*cow_, found_.layout, std::move(taken));
    for (core::SectorNumber i = 0; i < found_.layout.sectors_with_bit; ++i) {
      require(map.in_cow(i) == is_wanted(i), "all bits are seen");
    }
  }

  [[nodiscard]] static bool bit(const Bytes& bytes, std::size_t start, core::SectorNumber i) {
    return start + i / 8 < bytes.size() &&
           (bytes[start + i / 8] >> (i % 8) & std::byte{1}) != std::byte{};
  }
  /// Whether a sector is in the COW, counting what is pending.
  [[nodiscard]] bool is_wanted(core::SectorNumber i) const {
    return bit(before_, found_.layout.bitmap_offset, i) || bit(bits_, 0, i);
  }

  void require_applied() const {
    require(!fs::exists(file_), "what is applied is gone");
    const auto after = content_of(*cow_);
    const auto bitmap = static_cast<std::ptrdiff_t>(found_.layout.bitmap_offset);
    require(after.size() == before_.size() &&
                std::equal(after.begin(), after.begin() + bitmap, before_.begin()),
            "only the bitmap changes");
    for (core::SectorNumber i = 0; i < found_.layout.sectors_with_bit; ++i) {
      require(bit(after, found_.layout.bitmap_offset, i) == is_wanted(i),
              "the bitmap has all bits and no other");
    }
  }

  void require_cow(const Bytes& expected, const char* what) const {
    require(content_of(*cow_) == expected, what);
  }

  FuzzedDataProvider& input_;
  const Workplace& place_;
  std::unique_ptr<core::PosixStorage> cow_;
  core::CowDescription found_;
  std::size_t words_ = 0;
  fs::path file_;
  Kind kind_ = Kind::regular;
  bool is_ours_ = false;
  bool same_cow_header_ = false;
  pending::Header head_{};
  Bytes bits_;    ///< the pending words
  Bytes before_;  ///< the COW
};

}  // namespace
}  // namespace cowfs::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const cowfs::tests::Workplace place;
  FuzzedDataProvider input(data, size);
  cowfs::tests::Case(input, place).run();
  return 0;
}
