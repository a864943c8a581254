// What a pending file looks like and where it lies: what pending_file.cpp, which writes one, and
// left_behind.cpp, which reads one, have in common.
//
// The file: a page with the Header, two pages with the COW's own header, then the words. It is made
// whole under a temporary name, and never changes its length. In it change only the words, and in
// the header the times and the mark of failure. Numbers are in the machine's own order: the file is
// worth nothing on another machine, or after a reboot.
#pragma once

#include <array>
#include <boost/filesystem/path.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/file_descriptor.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core::pending {

/// Lies at the start of the file. `words` and what is above it is what has to match.
struct Header {
  std::array<char, 8> magic;
  std::array<char, 40> boot_id;
  FileIdentity cow;
  std::int64_t cow_born;  ///< nanoseconds since 1970: an inode number may be used again
  std::uint64_t words;

  // These change while the file is mapped: only by the functions below.
  std::uint32_t failed;
  std::uint32_t writes_under_way;
  std::int64_t last_begin;  ///< nanoseconds since 1970
  std::int64_t last_end;
};
static_assert(std::is_trivially_copyable_v<Header>);

inline constexpr std::array<char, 8> file_magic{'c', 'o', 'w', 'f', 's', 'P', '0', '1'};
inline constexpr std::size_t page = 4096;
inline constexpr std::size_t cow_header_at = page;
inline constexpr std::size_t words_at = 3 * page;
static_assert(sizeof(Header) <= page);
static_assert(cow_header_at + longest_header <= words_at);

[[nodiscard]] std::string name_for(const FileIdentity& cow);
[[nodiscard]] constexpr std::size_t file_size(std::size_t words) { return words_at + words * 8; }

/// When a file was made, nanoseconds since 1970; 0 where the file system does not tell.
[[nodiscard]] std::int64_t birth_of(const PosixStorage& file);

/// A new header for a COW, no write noted yet.
[[nodiscard]] Header header_for(const PosixStorage& cow, std::size_t words);
/// The COW's own header, as it is in the file.
[[nodiscard]] std::vector<std::byte> first_bytes(const Storage& cow,
                                                 const CowDescription& description);

/// Opens the run directory; nothing if there is none. Throws Error unless only we can put files
/// there.
[[nodiscard]] std::optional<FileDescriptor> open_directory(
    const boost::filesystem::path& directory);

/// Calls function(first, count) for the stretches of words that are not holes of the file. Throws
/// std::system_error.
void for_each_stretch(int fd, std::size_t words,
                      const std::function<void(std::size_t, std::size_t)>& function);

// The times. Thread safety: they may be called at once.
void note_write_begins(Header& header) noexcept;
void note_write_ends(Header& header) noexcept;
/// Whoever wrote before is gone, and did not write after this moment.
void forget_writes_under_way(Header& header) noexcept;
void note_failure(Header& header) noexcept;
[[nodiscard]] bool has_failed(const Header& header) noexcept;

/// The nearest value, for a time that has none.
[[nodiscard]] std::int64_t nanoseconds(const timespec& time);

}  // namespace cowfs::core::pending
