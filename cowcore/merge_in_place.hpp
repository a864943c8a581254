// Merging a COW into its own backing.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/merge_steps.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/progress.hpp"

namespace cowfs::core {

struct InPlaceOptions {
  /// Instead of the one that the header names; it has to match.
  std::optional<boost::filesystem::path> backing;
  /// Other COWs of the backing, which are to keep their content on the merged one.
  std::vector<boost::filesystem::path> siblings;
  bool remove_cow = false;  ///< instead of making it empty
  std::optional<boost::filesystem::path> pending_directory = run_directory();
};

/// A merge that can be told to the user before it is done. Holds exclusive locks on COW, backing
/// and siblings while it lives, so that nobody uses any of them.
///
/// After run() has returned, the backing holds the merged image, on disk; the COW is empty and
/// names the backing as it is now, or is gone; so do the siblings, which read as before. All other
/// COWs of the backing are refused from the moment run() has begun.
///
/// After an error, Cancelled, a kill or a power loss in run(), the same merge can be begun again at
/// any time, and goes on where it was; until then nobody else may use COW, backing or siblings (a
/// file NAME.cowfs-merge beside the backing says so). Memory: under 1 MiB, and about 200 KiB for
/// each sibling.
class InPlaceMerge {
 public:
  /// Opens, locks and checks. Changes nothing, but settles what killed mounts have left. Throws
  /// Busy, DamagedCow, BackingMismatch, Error and std::system_error.
  InPlaceMerge(const boost::filesystem::path& cow, InPlaceOptions options);

  [[nodiscard]] const std::string& backing_name() const { return backing_->name(); }
  /// Whether this goes on with a merge that was begun before.
  [[nodiscard]] bool goes_on() const { return start_.begun; }
  [[nodiscard]] const std::vector<std::string>& notices() const { return notices_; }
  /// Siblings that will be, or have been, kept.
  [[nodiscard]] std::size_t siblings() const { return siblings_.size(); }

  /// Throws Error, Cancelled and std::system_error.
  void run(const Progress& progress);

 private:
  struct Sibling {
    std::unique_ptr<PosixStorage> file;
    CowDescription description;
  };

  void open_cow_file();
  void open_backing();
  void look_for_journal();
  void adopt(const JournalState& state);
  void refuse_other_merge(const JournalState& state) const;
  void open_siblings();
  void open_sibling(const boost::filesystem::path& path);
  void check_sibling_begins(const Sibling& sibling) const;
  void prepare_record();
  void wait_for_another_second() const;
  void touch_backing() const;
  [[nodiscard]] MergedBacking finish_backing() const;
  void remove_cow() const;
  [[nodiscard]] MergeFiles files(Storage& journal);

  boost::filesystem::path path_;  ///< of the COW
  InPlaceOptions options_;
  std::unique_ptr<PosixStorage> cow_;
  CowDescription description_;
  boost::filesystem::path backing_path_;
  std::unique_ptr<PosixStorage> backing_;
  boost::filesystem::path journal_path_;
  MergeStart start_;
  std::vector<Sibling> siblings_;
  std::vector<std::string> notices_;
};

}  // namespace cowfs::core
