// Whether a COW file is in order, and mending what can be mended without guessing.
#pragma once

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/pending_file.hpp"

namespace cowfs::core {

/// Something about a COW file that a user should know.
struct Finding {
  enum class Severity {
    remark,  ///< nothing is lost, and the COW can be used
    damage,  ///< something is lost, or the COW can't be used before somebody decides
  };
  std::string name;  ///< for scripts; one of those in the table of check_cow.cpp
  Severity severity = Severity::remark;
  std::string what = {};    ///< for a person: what it is and what it means
  std::string advice = {};  ///< what to do; empty if there is nothing to do
  bool repairable = false;
  std::uint64_t count = 0;  ///< sectors, bits or bytes that it is about; 0 where that means nothing
  std::optional<std::uint64_t> first = {};  ///< byte of the merged image where it is first so
};

struct CheckResult {
  std::vector<Finding> findings;
  std::vector<Finding> repaired;  ///< what a repair has mended: none of `findings`

  [[nodiscard]] bool is_damaged() const;
};

/// Checks a COW that nobody has open for writing, and changes nothing. Takes time for what the
/// COW holds, not for its size. Throws Busy, Error (not a regular file), std::system_error; a
/// damaged file is a finding.
[[nodiscard]] CheckResult check_cow(
    const boost::filesystem::path& cow,
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

/// Checks a COW that nobody uses, and mends what is `repairable`: the merged image reads as before,
/// with what a killed mount has left put in its place. All is synced. Throws as check_cow; then a
/// part may have been mended, and it can be done again.
[[nodiscard]] CheckResult repair_cow(
    const boost::filesystem::path& cow,
    const std::optional<boost::filesystem::path>& pending_directory = run_directory());

}  // namespace cowfs::core
