// The file system that shows one merged image: as the mount's root if that is a file, or as the one
// file "disk" in it if that is a directory.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "cowcore/cow_image.hpp"
#include "fuse/backing_guard.hpp"
#include "fuse/device.hpp"
#include "fuse/log.hpp"
#include "fuse/page_cache.hpp"
#include "fuse/session.hpp"

namespace cowfs::fuse {

/// How the kernel caches the merged file.
struct CachePolicy {
  enum class Mode {
    window,  ///< an O_DIRECT open is direct, any other is cached, within a window
    none,    ///< every open is direct; what is mapped is cached, within the window
    kernel,  ///< every open is cached, without a bound; O_DIRECT is the kernel's own, synchronous
  };
  static constexpr std::uint64_t default_window = std::uint64_t{16} << 20;

  Mode mode = Mode::window;
  std::uint64_t window = default_window;  ///< bytes
};

enum class RootKind { file, directory };

/// Thread safety: that of a session; all that it calls may be called at once.
class ImageFileSystem : public FileSystem {
 public:
  /// All must outlive the file system.
  ImageFileSystem(core::CowImage& image, const Device& device, RootKind root,
                  const CachePolicy& cache, BackingGuard& guard, Log& log);

  /// To be called before a session that takes over from another: of the files that are open nothing
  /// is known, so some may be cached ones.
  void assume_cached_opens() {
    assume_cached_opens_ = true;
    page_cache_.assume_dropped();
  }

  /// What to tell whoever asks for the state of the daemon.
  void set_replaceable(bool replaceable) { replaceable_ = replaceable; }

  /// To be called before Session::stop on a mount that is in use.
  void prepare_to_stop() { page_cache_.stop(); }

  [[nodiscard]] const fuse_lowlevel_ops& operations() const override;
  [[nodiscard]] std::unique_ptr<RequestHandler> new_handler(const Device& device) override;
  void negotiate(fuse_conn_info& connection) override;
  [[nodiscard]] std::uint32_t choose_flags2(std::uint32_t offered) const override;

 private:
  class Handler;
  struct Operations;

  enum class Handle : std::uint64_t { cached = 1, direct = 2 };

  void note_opened(Handle handle);
  void note_closed(Handle handle) { cached_opens_ -= handle == Handle::cached ? 1 : 0; }
  /// A page of a file that is open for direct I/O is read for a mapping.
  void note_mapped_direct() { mapped_direct_ = true; }

  /// A moment. Two of them tell whether the kernel may have cached what was read between them, also
  /// through a handle that was opened and closed again.
  struct CacheMoment {
    bool in_use;
    std::uint64_t opens_before;
  };
  [[nodiscard]] CacheMoment cache_moment() const;
  [[nodiscard]] bool may_have_cached_since(const CacheMoment& then) const;

  void report_unreadable(std::uint64_t offset, std::size_t length);

  core::CowImage& image_;
  BackingGuard& guard_;
  Log& log_;
  const RootKind root_;
  const std::uint64_t disk_node_;
  const CachePolicy cache_;
  PageCache page_cache_;
  const pid_t supervisor_;
  bool assume_cached_opens_ = false;
  bool replaceable_ = false;
  std::atomic<std::int64_t> cached_opens_ = 0;
  std::atomic<std::uint64_t> cached_opens_ever_ = 0;
  std::atomic<bool> mapped_direct_ = false;    ///< at some time: nobody tells when it ends
  std::atomic<std::int64_t> last_report_ = 0;  ///< seconds of the steady clock
};

}  // namespace cowfs::fuse
