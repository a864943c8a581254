// The note that a merge into a backing is under way.
//
// The merge changes the backing's mtime, so that after a crash the COW's header matches no more.
// The note, on disk before the first write, tells that it is this very COW's merge that did it, and
// may go on; and it keeps everybody else from the two until then. merge_steps.cpp has the order.
//
// The file: a sector for the end of the merge, then the beginning's record. Each has a checksum, so
// that half a record is none. Numbers are little-endian.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_header.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Tells a file from all others also after a reboot, when devices may have got other numbers.
struct LastingIdentity {
  std::uint64_t inode = 0;
  std::int64_t born = 0;  ///< nanoseconds since 1970; 0 where the file system does not tell
  bool operator==(const LastingIdentity&) const = default;
};

[[nodiscard]] LastingIdentity lasting_identity(const PosixStorage& file);

/// What the headers are to record when the merge is done.
struct MergedBacking {
  std::uint32_t mtime = 0;
  std::uint64_t size = 0;
  bool operator==(const MergedBacking&) const = default;
};

struct MergeRecord {
  struct File {
    std::string path;  ///< for messages, and to find the siblings
    LastingIdentity identity;
    bool operator==(const File&) const = default;
  };
  File cow;
  File backing;                     ///< of a block device, the identity is empty: it does not last
  std::uint32_t backing_mtime = 0;  ///< before the merge
  std::uint64_t backing_size = 0;
  std::vector<File> siblings;  ///< COWs that can do without the old backing
  std::uint64_t nonce = 0;     ///< differs from merge to merge

  bool operator==(const MergeRecord&) const = default;
};

/// What a journal says.
struct JournalState {
  MergeRecord begun;
  std::optional<MergedBacking> done;  ///< the backing is merged; the headers may not tell yet
};

/// Nothing if it says nothing, or only half of it. Throws std::system_error.
[[nodiscard]] std::optional<JournalState> read_journal(const Storage& journal);

// Each returns when it is on disk. Throw std::system_error.
void note_begun(Storage& journal, const MergeRecord& record);
void note_done(Storage& journal, const MergeRecord& record, const MergedBacking& merged);
void clear_journal(Storage& journal);

/// Where the journal of merges into a backing lies: beside it, or if it is a block device, beside
/// the COW.
[[nodiscard]] boost::filesystem::path journal_path(const boost::filesystem::path& cow,
                                                   const boost::filesystem::path& backing,
                                                   const FileStatus& backing_status);

/// Whether it was made by root, by the backing's owner, or by us.
[[nodiscard]] bool may_be_trusted(const PosixStorage& journal, const PosixStorage& backing);

/// The journal of an unfinished merge into this very backing; nothing if there is none. Throws
/// std::system_error.
[[nodiscard]] std::optional<JournalState> find_unfinished_merge(
    const boost::filesystem::path& cow, const boost::filesystem::path& backing,
    const PosixStorage& backing_file);

/// Throws BackingMismatch, with what to do, if a merge into the backing has not ended and
/// concerns a COW with this header.
void refuse_unfinished_merge(const boost::filesystem::path& cow, const CowHeader& header,
                             const boost::filesystem::path& backing,
                             const PosixStorage& backing_file);

}  // namespace cowfs::core
