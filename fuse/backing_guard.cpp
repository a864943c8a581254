#include "fuse/backing_guard.hpp"

#include <fmt/format.h>

#include "cowcore/backing.hpp"
#include "cowcore/human_units.hpp"

namespace cowfs::fuse {
namespace {

bool is_same(const core::FileStatus& a, const core::FileStatus& b) {
  return a.size == b.size && a.modified.tv_sec == b.modified.tv_sec &&
         a.modified.tv_nsec == b.modified.tv_nsec;
}

std::string describe_change(const core::FileStatus& before, const core::FileStatus& now) {
  if (before.size != now.size) {
    return fmt::format("its size was {} and is {}", core::human_size(before.size),
                       core::human_size(now.size));
  }
  return fmt::format("it was written at {}", core::human_time(core::header_mtime(now)));
}

}  // namespace

BackingGuard::BackingGuard(core::CowImage& image, const core::CowHeader& header,
                           BackingChange reaction, Log& log)
    : image_(image), reaction_(reaction), log_(log), known_(image.backing().status()) {
  if (core::compare_backing(header, known_) == core::BackingState::ok) return;
  // It changed while no worker looked.
  known_.size = header.backing_size;
  known_.modified = {header.backing_mtime, 0};
}

void BackingGuard::check() noexcept {
  try {
    const auto found = image_.backing().status();
    const std::lock_guard guard(mutex_);
    if (!stopped_ && !is_same(found, known_)) react(found);
  } catch (const std::exception& error) {
    const std::lock_guard guard(mutex_);
    if (stopped_) return;
    stopped_ = true;
    image_.refuse_writes();
    log_.error(fmt::format("{}; the image is read-only from now on", error.what()));
  }
}

void BackingGuard::react(const core::FileStatus& found) {
  const auto what = fmt::format("{}: the backing changed under the mount: {}",
                                image_.backing().name(), describe_change(known_, found));
  known_ = found;
  if (reaction_ == BackingChange::warn) {
    log_.warning(what);
    return;
  }
  stopped_ = true;
  image_.refuse_writes();
  log_.error(what + "; the image is read-only from now on; restore the backing and mount again");
}

}  // namespace cowfs::fuse
