// Opening a COW and its backing: locks, validation, relocation.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

struct OpenedCow {
  std::unique_ptr<PosixStorage> cow;
  std::unique_ptr<PosixStorage> backing;
  CowHeader header;
  CowLayout layout;
  Access access = Access::read_only;
  std::vector<std::string> notices;  ///< lines that the user should see, e.g. of a relocation
};

/// Opens `cow` and its backing, and holds their locks while the result lives: on the COW an
/// exclusive lock, a shared one if it is opened read-only; on the backing a shared one. The locks
/// conflict with those of UML in both directions.
///
/// With `backing` given, that is used instead of the path in the header. It has to match; then a
/// COW opened for writing is made to name it, in its own layout. A COW that may not be written is
/// opened read-only.
///
/// Throws Busy, DamagedCow, BackingMismatch, Error (a V1 or V2 COW with sectors that have no bit,
/// for writing) and std::system_error.
[[nodiscard]] OpenedCow open_cow(
    const boost::filesystem::path& cow, const std::optional<boost::filesystem::path>& backing,
    Access access,
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

/// Throws BackingMismatch if `backing` is the COW itself or a file of the kernel's.
void refuse_impossible_backing(const PosixStorage& backing, const PosixStorage& cow);

/// The header with another backing's path, as it is stored. Throws Error if that is too long for
/// the header's format.
[[nodiscard]] CowHeader header_naming(CowHeader header, const boost::filesystem::path& backing,
                                      const std::string& cow);

/// As open_cow for reading. But what a killed mount has left is put on disk first, where the COW
/// may be written; open_cow refuses such a COW.
[[nodiscard]] OpenedCow open_cow_to_read(
    const boost::filesystem::path& cow, const std::optional<boost::filesystem::path>& backing,
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

// What every open checks, for operations that open by themselves.

/// Throws BackingMismatch if the backing is a file of the kernel's own file systems.
void refuse_kernel_file(const PosixStorage& backing, const std::string& cow);

/// Throws Error if some sectors have no bit: then the COW can't be written.
void refuse_unmapped_sectors(const CowDescription& found, const std::string& file);

}  // namespace cowfs::core
