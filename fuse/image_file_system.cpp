#include "fuse/image_file_system.hpp"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>

#include "cowcore/guarded_memory.hpp"
#include "cowcore/sector.hpp"
#include "fuse/control.hpp"
#include "fuse/errno_of.hpp"
#include "fuse/init_request.hpp"

namespace cowfs::fuse {
namespace {

constexpr fuse_ino_t root_node = FUSE_ROOT_ID;
constexpr fuse_ino_t disk_in_directory = FUSE_ROOT_ID + 1;
constexpr std::string_view disk_name = "disk";

/// The image never changes its size or its names, so the kernel may remember both.
constexpr double attribute_seconds = 1.0;
constexpr double entry_seconds = 86400.0;

/// What programs take for the image's block size.
constexpr std::uint64_t block = 4096;

template <typename Message>
const Message& message_in(std::span<const std::byte> body) {
  return *reinterpret_cast<const Message*>(body.data());
}

}  // namespace

ImageFileSystem::ImageFileSystem(core::CowImage& image, const Device& device, RootKind root,
                                 const CachePolicy& cache, BackingGuard& guard, Log& log)
    : image_(image),
      guard_(guard),
      log_(log),
      root_(root),
      disk_node_(root == RootKind::file ? root_node : disk_in_directory),
      cache_(cache),
      page_cache_(device, disk_node_,
                  cache.mode == CachePolicy::Mode::kernel ? PageCache::unlimited : cache.window),
      supervisor_(::getppid()) {
  core::guard_mapped_memory();
}

void ImageFileSystem::negotiate(fuse_conn_info& connection) {
  // The kernel's own truncation at open would leave it with a size of 0 for a file that has none.
  connection.want &= ~static_cast<unsigned>(FUSE_CAP_ATOMIC_O_TRUNC);
  // mtime changes with each write; the cache must not be thrown away each time.
  connection.want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA);
  // Never the writeback cache: the size of a root that is a regular file would stay 0.
  connection.want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE);
  allow_parallel_requests(connection);
  if (cache_.mode == CachePolicy::Mode::kernel) {
    // Here the kernel itself keeps direct I/O and its cache in step: for synchronous I/O only.
    connection.want &= ~static_cast<unsigned>(FUSE_CAP_ASYNC_DIO);
  }
}

std::uint32_t ImageFileSystem::choose_flags2(std::uint32_t offered) const {
  return offered & direct_io_allow_mmap;
}

void ImageFileSystem::note_opened(Handle handle) {
  if (handle != Handle::cached) return;
  ++cached_opens_;
  ++cached_opens_ever_;
}

ImageFileSystem::CacheMoment ImageFileSystem::cache_moment() const {
  return {assume_cached_opens_ || mapped_direct_ || cached_opens_ > 0, cached_opens_ever_};
}

bool ImageFileSystem::may_have_cached_since(const CacheMoment& then) const {
  if (cache_.mode == CachePolicy::Mode::kernel) return false;  // the kernel sees to it
  const auto now = cache_moment();
  return then.in_use || now.in_use || now.opens_before != then.opens_before;
}

void ImageFileSystem::report_unreadable(std::uint64_t offset, std::size_t length) {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::steady_clock::now().time_since_epoch())
                       .count();
  if (last_report_.exchange(now) == now) return;  // one line a second is enough
  log_.error(
      fmt::format("{}: {} bytes at {} can't be read (truncated or damaged backing or COW?); "
                  "the reader got an I/O error",
                  image_.backing().name(), length, offset));
}

/// Answers open, read and write. One a thread.
class ImageFileSystem::Handler final : public RequestHandler {
 public:
  Handler(ImageFileSystem& owner, const Device& device)
      : owner_(owner), image_(owner.image_), device_(device), view_(longest_agreed_transfer) {}

  bool handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept override {
    if (header.nodeid != owner_.disk_node_) return false;
    switch (header.opcode) {
      case FUSE_READ:
        return read(header.unique, message_in<fuse_read_in>(body));
      case FUSE_WRITE:
        return write(header.unique, message_in<fuse_write_in>(body),
                     body.subspan(sizeof(fuse_write_in)));
      case FUSE_OPEN:
        return open(header.unique, message_in<fuse_open_in>(body));
      default:
        return false;
    }
  }

 private:
  /// Answered here because libfuse 3.14 has no name for parallel direct writes.
  bool open(std::uint64_t unique, const fuse_open_in& in) noexcept {
    if (image_.read_only() && (in.flags & O_ACCMODE) != O_RDONLY) {
      device_.reply_error(unique, EROFS);
      return true;
    }
    const auto mode = owner_.cache_.mode;
    const bool direct = mode == CachePolicy::Mode::none ||
                        (mode == CachePolicy::Mode::window && (in.flags & O_DIRECT) != 0);
    const auto handle = direct ? Handle::direct : Handle::cached;
    fuse_open_out out{};
    out.fh = static_cast<std::uint64_t>(handle);
    out.open_flags = direct ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : FOPEN_KEEP_CACHE;
    owner_.note_opened(handle);
    // Nobody waits for it any more: then there will be no release either.
    if (device_.reply_with(unique, out) != Delivery::delivered) {
      owner_.note_closed(handle);
    }
    return true;
  }

  bool read(std::uint64_t unique, const fuse_read_in& in) noexcept {
    const auto offset = std::min<std::uint64_t>(in.offset, image_.size());
    const auto length = std::min<std::uint64_t>(in.size, image_.size() - offset);
    const bool for_cache = !is_direct(in);
    // Before the image is read: a write that this read does not see must see that it goes on.
    if (for_cache) {
      if (in.fh == static_cast<std::uint64_t>(Handle::direct)) owner_.note_mapped_direct();
      owner_.page_cache_.note_read(offset, length);
    }
    if (const int error = errno_of([&] { image_.view(offset, length, view_); })) {
      device_.reply_error(unique, error);
      if (error == EIO) owner_.report_unreadable(offset, length);
      return true;
    }
    // The kernel would bring them in itself, but not for a process that is just being killed: for
    // that it fails the request, where one that is not answered is answered by the next worker.
    core::touch_pages(view_.pieces());
    if (device_.reply(unique, view_.pieces()) == Delivery::unreadable) {
      owner_.report_unreadable(offset, length);
    }
    view_.clear();
    return true;
  }

  bool write(std::uint64_t unique, const fuse_write_in& in,
             std::span<const std::byte> data) noexcept {
    // As at the end of a block device: what does not fit is left out.
    const auto room = image_.size() - std::min<std::uint64_t>(in.offset, image_.size());
    data = data.first(std::min<std::uint64_t>({data.size(), in.size, room}));
    const auto before = owner_.cache_moment();
    const int error = errno_of([&] {
      if (data.empty() && in.size > 0) {
        throw std::system_error(ENOSPC, std::generic_category(), "past the end of the image");
      }
      image_.write(in.offset, data);
      if ((in.flags & O_DSYNC) != 0) image_.flush();
    });
    if (error != 0) {
      device_.reply_error(unique, error);
      return true;
    }
    const auto written = static_cast<std::uint32_t>(data.size());
    if (!is_direct(in)) {
      if (!is_of_mapping(in)) owner_.page_cache_.settle_plain_write(in.offset, written);
      device_.reply_with(unique, fuse_write_out{written, 0});
      owner_.page_cache_.note_written(in.offset, written);
    } else if (owner_.may_have_cached_since(before)) {
      owner_.page_cache_.answer_direct_write(unique, in.offset, written);
    } else {
      device_.reply_with(unique, fuse_write_out{written, 0});
    }
    return true;
  }

  // The handle does not tell: a direct one may be mapped, and a plain one may be made direct by
  // fcntl. The kernel says whose locks count for direct I/O only, not for its cache's own.
  static bool is_direct(const fuse_read_in& in) {
    return (in.read_flags & FUSE_READ_LOCKOWNER) != 0;
  }
  static bool is_direct(const fuse_write_in& in) {
    return (in.write_flags & FUSE_WRITE_LOCKOWNER) != 0;
  }

  /// What was stored in a mapping, and is written behind the program's back.
  static bool is_of_mapping(const fuse_write_in& in) {
    return (in.write_flags & FUSE_WRITE_CACHE) != 0;
  }

  ImageFileSystem& owner_;
  core::CowImage& image_;
  const Device& device_;
  core::ReadView view_;
};

std::unique_ptr<RequestHandler> ImageFileSystem::new_handler(const Device& device) {
  return std::make_unique<Handler>(*this, device);
}

/// What libfuse calls.
struct ImageFileSystem::Operations {
  static ImageFileSystem& self(fuse_req_t req) {
    return static_cast<ImageFileSystem&>(Session::file_system(req));
  }

  static bool is_disk(fuse_req_t req, fuse_ino_t node) { return node == self(req).disk_node_; }

  /// Runs `action`, which answers the request itself, and answers with the error if it throws.
  template <typename Action>
  static void guarded(fuse_req_t req, Action&& action) noexcept {
    if (const int error = errno_of(action)) fuse_reply_err(req, error);
  }

  static struct stat attributes(const ImageFileSystem& fs, fuse_ino_t node) {
    const auto cow = fs.image_.cow().status();
    struct stat attr {};
    attr.st_ino = node;
    attr.st_uid = cow.owner;
    attr.st_gid = cow.group;
    attr.st_atim = cow.accessed;
    attr.st_mtim = cow.modified;
    attr.st_ctim = cow.modified;
    attr.st_blksize = block;
    if (node == fs.disk_node_) {
      const auto permitted = fs.image_.read_only() ? 0444U : 0666U;
      attr.st_mode = S_IFREG | (cow.mode & permitted);
      attr.st_nlink = 1;
      attr.st_size = static_cast<off_t>(fs.image_.size());
      // What the image really costs, so that `ls -s` and `du` tell.
      attr.st_blocks = static_cast<blkcnt_t>(cow.allocated / 512);
    } else {
      // Whoever may read the image may enter the directory that holds it.
      attr.st_mode = S_IFDIR | ((cow.mode & 0444U) | (cow.mode & 0444U) >> 2);
      attr.st_nlink = 2;
    }
    return attr;
  }

  static void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
    guarded(req, [&] {
      const auto& fs = self(req);
      if (fs.root_ != RootKind::directory || parent != root_node || name != disk_name) {
        fuse_reply_err(req, ENOENT);
        return;
      }
      fuse_entry_param entry{};
      entry.ino = fs.disk_node_;
      entry.attr = attributes(fs, fs.disk_node_);
      entry.attr_timeout = attribute_seconds;
      entry.entry_timeout = entry_seconds;
      fuse_reply_entry(req, &entry);
    });
  }

  static void getattr(fuse_req_t req, fuse_ino_t node, fuse_file_info* /*file*/) {
    guarded(req, [&] {
      const auto attr = attributes(self(req), node);
      fuse_reply_attr(req, &attr, attribute_seconds);
    });
  }

  static void setattr(fuse_req_t req, fuse_ino_t node, struct stat* wanted, int to_set,
                      fuse_file_info* /*file*/) {
    guarded(req, [&] {
      const auto attr = attributes(self(req), node);
      const bool same_size = (to_set & FUSE_SET_ATTR_SIZE) == 0 || wanted->st_size == attr.st_size;
      constexpr int theirs = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
      // The size is the backing's; times, mode and owner are the COW's. truncate(2) has EPERM for a
      // file system that can't change a size.
      const bool only_size = (to_set & FUSE_SET_ATTR_SIZE) != 0;
      constexpr int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME;
      if (!same_size || (to_set & theirs) != 0 || (!only_size && (to_set & times) != 0)) {
        fuse_reply_err(req, EPERM);
        return;
      }
      fuse_reply_attr(req, &attr, attribute_seconds);
    });
  }

  static void readdir(fuse_req_t req, fuse_ino_t node, std::size_t size, off_t offset,
                      fuse_file_info* /*file*/) {
    guarded(req, [&] {
      const auto& fs = self(req);
      struct Entry {
        const char* name;
        fuse_ino_t node;
        mode_t mode;
      };
      const std::array entries{Entry{".", node, S_IFDIR}, Entry{"..", node, S_IFDIR},
                               Entry{disk_name.data(), fs.disk_node_, S_IFREG}};
      std::array<char, 1024> buffer{};
      std::size_t used = 0;
      for (auto i = static_cast<std::size_t>(offset); i < entries.size(); ++i) {
        struct stat attr {};
        attr.st_ino = entries[i].node;
        attr.st_mode = entries[i].mode;
        const auto room = std::min(buffer.size(), size) - used;
        const auto needed = fuse_add_direntry(req, buffer.data() + used, room, entries[i].name,
                                              &attr, static_cast<off_t>(i + 1));
        if (needed > room) break;
        used += needed;
      }
      fuse_reply_buf(req, buffer.data(), used);
    });
  }

  /// Called at each close(2) of a descriptor, which waits for it and returns its error. With
  /// nothing written there is nothing to do; which close is the last one a worker that took over
  /// can't know.
  static void flush(fuse_req_t req, fuse_ino_t /*node*/, fuse_file_info* /*file*/) {
    guarded(req, [&] {
      self(req).image_.flush();
      fuse_reply_err(req, 0);
    });
  }

  /// Nobody waits for this one; what a mapping has written after the last close(2) comes before it.
  static void release(fuse_req_t req, fuse_ino_t node, fuse_file_info* file) {
    auto& fs = self(req);
    if (is_disk(req, node)) fs.note_closed(static_cast<Handle>(file->fh));
    if (const int error = errno_of([&] { fs.image_.flush(); })) {
      fs.log_.error(fmt::format("{}: cannot flush at a close: {}", fs.image_.cow().name(),
                                std::strerror(error)));
    }
    fuse_reply_err(req, 0);
  }

  static void fsync(fuse_req_t req, fuse_ino_t /*node*/, int /*datasync*/,
                    fuse_file_info* /*file*/) {
    guarded(req, [&] {
      self(req).guard_.check();
      self(req).image_.flush();
      fuse_reply_err(req, 0);
    });
  }

  static void fallocate(fuse_req_t req, fuse_ino_t /*node*/, int mode, off_t offset, off_t length,
                        fuse_file_info* /*file*/) {
    guarded(req, [&] { fuse_reply_err(req, allocate(self(req).image_, mode, offset, length)); });
  }

  static int allocate(core::CowImage& image, int mode, off_t offset, off_t length) {
    const auto size = image.size();
    const auto begin = std::min(static_cast<std::uint64_t>(offset), size);
    const auto end =
        std::min(static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(length), size);
    const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    const bool grows = end - begin < static_cast<std::uint64_t>(length);
    if (grows && !keeps_size) return ENOSPC;
    switch (mode & ~FALLOC_FL_KEEP_SIZE) {
      case FALLOC_FL_PUNCH_HOLE:
      case FALLOC_FL_ZERO_RANGE:
        image.zero(begin, end - begin);
        return 0;
      case 0:
        image.reserve(begin, end - begin);
        return 0;
      default:
        return EOPNOTSUPP;
    }
  }

  static void lseek(fuse_req_t req, fuse_ino_t /*node*/, off_t offset, int whence,
                    fuse_file_info* /*file*/) {
    guarded(req, [&] {
      const auto& image = self(req).image_;
      const auto from = static_cast<std::uint64_t>(offset);
      if (offset < 0 || from >= image.size()) {
        fuse_reply_err(req, ENXIO);
        return;
      }
      const auto found = whence == SEEK_DATA ? next_data(image, from) : next_hole(image, from);
      found ? fuse_reply_lseek(req, static_cast<off_t>(*found)) : fuse_reply_err(req, ENXIO);
    });
  }

  // Data and holes are shown in whole blocks, as every file system shows them: a block with one
  // sector of data is data. QEMU, which takes them so when it uses O_DIRECT, else aborts.

  static std::optional<std::uint64_t> next_data(const core::CowImage& image, std::uint64_t from) {
    const auto data = image.next_data(core::round_down(from, block));
    if (!data) return std::nullopt;
    return std::max(from, core::round_down(*data, block));
  }

  static std::uint64_t next_hole(const core::CowImage& image, std::uint64_t from) {
    auto hole = core::round_down(from, block);
    while ((hole = core::round_up(image.next_hole(hole), block)) < image.size()) {
      const auto data = image.next_data(hole);
      if (!data || *data >= hole + block) return std::max(from, hole);
      hole = *data;
    }
    return image.size();
  }

  static void statfs(fuse_req_t req, fuse_ino_t /*node*/) {
    guarded(req, [&] {
      const auto space = self(req).image_.cow().space();
      struct statvfs found {};
      found.f_bsize = block;
      found.f_frsize = block;
      found.f_blocks = space.total / block;
      found.f_bfree = space.free / block;
      found.f_bavail = space.available / block;
      found.f_files = 1;
      found.f_namemax = 255;
      fuse_reply_statfs(req, &found);
    });
  }

  template <typename... Rest>
  static void refuse(fuse_req_t req, fuse_ino_t /*node*/, Rest... /*rest*/) {
    fuse_reply_err(req, EPERM);
  }

  static void refuse_symlink(fuse_req_t req, const char* /*target*/, fuse_ino_t /*parent*/,
                             const char* /*name*/) {
    fuse_reply_err(req, EPERM);
  }

  static void ioctl(fuse_req_t req, fuse_ino_t node, unsigned command, void* /*argument*/,
                    fuse_file_info* /*file*/, unsigned /*flags*/, const void* /*in*/,
                    std::size_t /*in_size*/, std::size_t out_size) {
    if (!is_disk(req, node) || command != get_daemon_status || out_size < sizeof(DaemonStatus)) {
      fuse_reply_err(req, ENOTTY);
      return;
    }
    // A worker outlives a supervisor that was killed.
    const bool supervised = ::getppid() == self(req).supervisor_;
    const DaemonStatus status{daemon_status_version,
                              supervised ? self(req).supervisor_ : ::getpid(), ::getpid(),
                              supervised && self(req).replaceable_ ? 1 : 0};
    fuse_reply_ioctl(req, 0, &status, sizeof status);
  }
};

const fuse_lowlevel_ops& ImageFileSystem::operations() const {
  static const fuse_lowlevel_ops table = [] {
    fuse_lowlevel_ops ops{};
    ops.lookup = Operations::lookup;
    ops.getattr = Operations::getattr;
    ops.setattr = Operations::setattr;
    ops.readdir = Operations::readdir;
    ops.flush = Operations::flush;
    ops.release = Operations::release;
    ops.fsync = Operations::fsync;
    ops.fallocate = Operations::fallocate;
    ops.lseek = Operations::lseek;
    ops.statfs = Operations::statfs;
    ops.ioctl = Operations::ioctl;
    // One name, for good: EPERM, where libfuse would answer ENOSYS for what is left out.
    ops.mknod = Operations::refuse<const char*, mode_t, dev_t>;
    ops.mkdir = Operations::refuse<const char*, mode_t>;
    ops.create = Operations::refuse<const char*, mode_t, fuse_file_info*>;
    ops.unlink = Operations::refuse<const char*>;
    ops.rmdir = Operations::refuse<const char*>;
    ops.rename = Operations::refuse<const char*, fuse_ino_t, const char*, unsigned>;
    ops.link = Operations::refuse<fuse_ino_t, const char*>;
    ops.symlink = Operations::refuse_symlink;
    return ops;
  }();
  return table;
}

}  // namespace cowfs::fuse
