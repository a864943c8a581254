// Merging a COW into its backing: the steps on open files. The note at the top of merge_steps.cpp
// has their order, and what a crash leaves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cowcore/cow_description.hpp"
#include "cowcore/merge_journal.hpp"
#include "cowcore/progress.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// Open for reading and writing, and locked; the caller has made sure that they belong together.
struct MergeFiles {
  struct Sibling {
    Storage* file;
    CowDescription description;
  };

  Storage* cow;
  CowDescription description;
  Storage* backing;
  std::vector<Sibling> siblings;
  Storage* journal;

  /// Gives the backing another mtime than that before the merge, and puts that on disk.
  std::function<void()> touch_backing;
  /// Puts all of the backing on disk, with its times, and tells what headers are to record: an
  /// mtime other than that before the merge.
  std::function<MergedBacking()> finish_backing;
  /// Removes the COW instead of emptying it; may be empty.
  std::function<void()> remove_cow;
};

/// How far an unfinished merge is; what is not given starts anew. `record` is what the journal is
/// to say; of a merge that goes on, what it says.
struct MergeStart {
  MergeRecord record;
  bool begun = false;
  std::optional<MergedBacking> done = std::nullopt;
};

/// Takes the steps that are still to take; when it returns, the backing holds the merged image,
/// the siblings hold what they held, and the COW is empty or gone. Can be called again, with what
/// the journal then says, after any error, kill or power loss. What `progress` throws passes: in
/// the first step nothing of the backing has changed then (the journal tells).
///
/// Throws std::system_error.
void run_merge_steps(const MergeFiles& files, const MergeStart& start, const Progress& progress);

/// Makes a COW empty whose content nobody needs any more, with another header of the same layout,
/// and syncs. The header comes last.
void empty_cow(Storage& cow, const CowDescription& description, const CowHeader& header);

}  // namespace cowfs::core
