// Noticing that somebody writes the backing under a running mount.
#pragma once

#include <atomic>
#include <mutex>

#include "cowcore/cow_header.hpp"
#include "cowcore/cow_image.hpp"
#include "cowcore/storage.hpp"
#include "fuse/log.hpp"

namespace cowfs::fuse {

/// What a change of the backing leads to.
enum class BackingChange {
  stop,  ///< the image becomes read-only: what is written on top of a wrong backing is of no use
  warn,  ///< a line in the log, for each change
};

/// Compares the backing's size and time of last change with what they were.
/// Thread safety: check may be called from several threads at once.
class BackingGuard {
 public:
  /// `header` is the COW's: a backing that does not match it now has changed already.
  BackingGuard(core::CowImage& image, const core::CowHeader& header, BackingChange reaction,
               Log& log);

  /// Looks now, and reacts. Does not throw: a backing that can't be looked at counts as changed.
  void check() noexcept;

 private:
  void react(const core::FileStatus& found);

  core::CowImage& image_;
  const BackingChange reaction_;
  Log& log_;
  std::mutex mutex_;  // guards what follows
  core::FileStatus known_;
  bool stopped_ = false;
};

}  // namespace cowfs::fuse
