#include "cowcore/merge_journal.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <system_error>

#include "cowcore/backing.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/pending_format.hpp"
#include "cowcore/sector.hpp"

namespace cowfs::core {

namespace fs = boost::filesystem;

namespace {

constexpr std::string_view begun_magic = "cowfsMB1";
constexpr std::string_view done_magic = "cowfsMD1";
constexpr std::uint64_t done_at = 0;
constexpr std::uint64_t begun_at = sector_bytes;
constexpr std::size_t longest_record = std::size_t{1} << 20;

/// FNV-1a: it has to tell half a record from a whole one, no more.
std::uint64_t checksum(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0xcbf29ce484222325;
  for (const auto byte : bytes) sum = (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3;
  return sum;
}

class Writer {
 public:
  explicit Writer(std::string_view magic) { put_bytes(magic); }

  void put(std::uint64_t number) {
    for (unsigned i = 0; i < 8; ++i) bytes_.push_back(static_cast<std::byte>(number >> (8 * i)));
  }
  void put(const MergeRecord::File& file) {
    put(file.path.size());
    put_bytes(file.path);
    put(file.identity.inode);
    put(static_cast<std::uint64_t>(file.identity.born));
  }
  /// Magic and length, what was put, and the checksum of it all.
  std::vector<std::byte> finish() {
    put(checksum(bytes_));
    return std::move(bytes_);
  }

 private:
  void put_bytes(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte> bytes_;
};

/// Throws std::out_of_range where the bytes end too early.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view magic) : bytes_(bytes) {
    if (text(magic.size()) != magic) throw std::out_of_range("another magic");
  }

  std::uint64_t number() {
    const auto bytes = take(8);
    std::uint64_t value = 0;
    for (unsigned i = 0; i < 8; ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    return value;
  }
  std::string text(std::uint64_t length) {
    const auto bytes = take(length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  MergeRecord::File file() {
    MergeRecord::File found;
    found.path = text(number());
    found.identity.inode = number();
    found.identity.born = static_cast<std::int64_t>(number());
    return found;
  }
  void check_sum() {
    const auto sum = checksum(bytes_.first(at_));
    if (number() != sum) throw std::out_of_range("not whole");
  }

 private:
  std::span<const std::byte> take(std::uint64_t length) {
    if (length > bytes_.size() - at_) throw std::out_of_range("cut short");
    at_ += length;
    return bytes_.subspan(at_ - length, length);
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

std::vector<std::byte> serialize(const MergeRecord& record) {
  Writer writer(begun_magic);
  writer.put(record.cow);
  writer.put(record.backing);
  writer.put(record.backing_mtime);
  writer.put(record.backing_size);
  writer.put(record.siblings.size());
  for (const auto& sibling : record.siblings) writer.put(sibling);
  writer.put(record.nonce);
  return writer.finish();
}

MergeRecord parse_begun(std::span<const std::byte> bytes) {
  Reader reader(bytes, begun_magic);
  MergeRecord record;
  record.cow = reader.file();
  record.backing = reader.file();
  record.backing_mtime = static_cast<std::uint32_t>(reader.number());
  record.backing_size = reader.number();
  for (auto left = reader.number(); left > 0; --left) record.siblings.push_back(reader.file());
  record.nonce = reader.number();
  reader.check_sum();
  return record;
}

/// Nothing if it is not the end of the merge with that nonce.
std::optional<MergedBacking> parse_done(std::span<const std::byte> bytes, std::uint64_t nonce) {
  try {
    Reader reader(bytes, done_magic);
    MergedBacking merged;
    merged.mtime = static_cast<std::uint32_t>(reader.number());
    merged.size = reader.number();
    const bool same = reader.number() == nonce;
    reader.check_sum();
    return same ? std::optional(merged) : std::nullopt;
  } catch (const std::out_of_range&) {
    return std::nullopt;
  }
}

}  // namespace

LastingIdentity lasting_identity(const PosixStorage& file) {
  const auto status = file.status();
  if (S_ISBLK(status.mode)) return {};
  return {status.identity.inode, pending::birth_of(file)};
}

std::optional<JournalState> read_journal(const Storage& journal) {
  std::vector<std::byte> bytes(std::min<std::uint64_t>(journal.status().size, longest_record));
  bytes.resize(journal.read(0, bytes));
  if (bytes.size() < begun_at) return std::nullopt;
  try {
    JournalState state{parse_begun(std::span(bytes).subspan(begun_at)), std::nullopt};
    state.done = parse_done(std::span(bytes).first(begun_at), state.begun.nonce);
    return state;
  } catch (const std::out_of_range&) {
    return std::nullopt;
  }
}

void note_begun(Storage& journal, const MergeRecord& record) {
  const auto bytes = serialize(record);
  if (begun_at + bytes.size() > longest_record) {
    throw std::system_error(EFBIG, std::generic_category(), journal.name() + ": too many siblings");
  }
  journal.write(begun_at, bytes);
  journal.sync();
}

void note_done(Storage& journal, const MergeRecord& record, const MergedBacking& merged) {
  Writer writer(done_magic);
  writer.put(merged.mtime);
  writer.put(merged.size);
  writer.put(record.nonce);
  journal.write(done_at, writer.finish());
  journal.sync();
}

void clear_journal(Storage& journal) {
  static constexpr std::array<std::byte, sector_bytes> zeros{};
  journal.write(begun_at, zeros);
  journal.sync();
}

bool may_be_trusted(const PosixStorage& journal, const PosixStorage& backing) {
  const auto owner = journal.status().owner;
  return owner == 0 || owner == ::geteuid() || owner == backing.status().owner;
}

fs::path journal_path(const fs::path& cow, const fs::path& backing,
                      const FileStatus& backing_status) {
  const auto file = fs::canonical(S_ISBLK(backing_status.mode) ? cow : backing);
  return file.parent_path() / (file.filename().string() + ".cowfs-merge");
}

std::optional<JournalState> find_unfinished_merge(const fs::path& cow, const fs::path& backing,
                                                  const PosixStorage& backing_file) {
  const auto path = journal_path(cow, backing, backing_file.status());
  boost::system::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(path, error))) return std::nullopt;
  const auto file = PosixStorage::open(path, Access::read_only, FileKinds::regular);
  // Where everybody may make files, anybody could make one that says what it likes.
  if (!may_be_trusted(*file, backing_file)) return std::nullopt;
  auto state = read_journal(*file);
  if (!state || state->begun.backing.identity != lasting_identity(backing_file)) {
    return std::nullopt;
  }
  return state;
}

void refuse_unfinished_merge(const fs::path& cow, const CowHeader& header, const fs::path& backing,
                             const PosixStorage& backing_file) {
  const auto state = find_unfinished_merge(cow, backing, backing_file);
  if (!state) return;
  // The backing is complete, and this COW has been told: there is nothing to wait for.
  if (state->done && compare_backing(header, backing_file.status()) == BackingState::ok) return;
  throw BackingMismatch(
      cow.string(),
      fmt::format("a merge of {} into its backing {} was interrupted", state->begun.cow.path,
                  backing.string()),
      fmt::format("complete it: `cowfs merge --in-place {}`", state->begun.cow.path));
}

}  // namespace cowfs::core
