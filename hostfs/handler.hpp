// Answers the requests of one thread. Private to the room; see export_file_system.hpp for what a
// request can do and what it can't.
#pragma once

#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <vector>

#include "cowcore/zeroed_array.hpp"
#include "fuse/newer_protocol.hpp"
#include "hostfs/export_file_system.hpp"
#include "hostfs/message.hpp"

namespace cowfs::hostfs {

class Handler final : public fuse::RequestHandler {
 public:
  /// In the thread that it is for: see OwnFiles::enter.
  Handler(ExportFileSystem& fs, const fuse::Device& device);

  bool handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept override;

 private:
  struct Request {
    const fuse_in_header& header;
    MessageReader in;
    bool squashed;
  };
  struct Operation;
  static const Operation* operation_for(std::uint32_t opcode);
  void perform(const Operation& operation, Request& request);

  using Found = ExportFileSystem::Found;

  // handler.cpp
  void forget(Request& request);
  void batch_forget(Request& request);
  void interrupt(Request& request);
  void destroy(Request& request);
  void ioctl(Request& request);
  void statfs(Request& request);
  /// Whether the reply was taken.
  bool answer(const Request& request, std::initializer_list<iovec> pieces);
  template <typename Message>
  bool answer_with(const Request& request, const Message& message) {
    return answer(request, {iovec{const_cast<Message*>(&message), sizeof message}});
  }
  void answer_done(const Request& request) { answer(request, {}); }

  // handler_entries.cpp: names
  void lookup(Request& request);
  void mknod(Request& request);
  void mkdir(Request& request);
  void symlink(Request& request);
  void unlink(Request& request);
  void rmdir(Request& request);
  void rename(Request& request);
  void rename2(Request& request);
  void link(Request& request);
  void create(Request& request);
  void tmpfile(Request& request);

  class Making;
  struct NewFile {
    mode_t mode;
    mode_t umask;
    std::uint32_t device;
  };
  struct NewOpenFile;
  fuse_entry_out entry_of(Found found);
  /// Looks an entry up, and counts a lookup of its node; nothing if there is none that may be seen.
  std::optional<fuse_entry_out> look_up(int directory, const char* name);
  [[nodiscard]] fuse_entry_out timed_entry(std::uint64_t node, const fuse_attr& attributes) const;
  void answer_entry(Request& request, int directory, const char* name);
  void answer_new_entry(Request& request, const fuse_entry_out& entry);
  void move(Request& request, std::uint64_t new_parent, std::uint32_t flags);
  [[nodiscard]] Caller caller_of(Request& request) const;
  /// What metadata=xattr has to say of a file that is made in this directory.
  [[nodiscard]] Metadata metadata_for(const Request& request, const Node& parent,
                                      const NewFile& file) const;
  void make_plain_node(Request& request, int parent, const char* name, const NewFile& file);
  void make_kept_node(Request& request, const Node& parent, const char* name, const NewFile& file,
                      std::span<const std::byte> content);
  [[nodiscard]] std::string host_target(std::string_view target, int parent) const;
  core::FileDescriptor open_new(Request& request, const Node& parent, const char* name,
                                const fuse_create_in& in);
  void answer_created(Request& request, core::FileDescriptor fd);

  // handler_attributes.cpp
  void getattr(Request& request);
  void setattr(Request& request);
  void readlink(Request& request);
  void access(Request& request);
  void answer_attributes(Request& request, int fd);
  void change_mode(const Request& request, const Node& node, mode_t mode);
  void change_owner(const Node& node, const fuse_setattr_in& in);
  void change_size(const Request& request, const Node& node, const fuse_setattr_in& in);
  void change_times(const Node& node, const fuse_setattr_in& in);
  void change_metadata(const Node& node, const fuse_setattr_in& in);
  [[nodiscard]] std::string host_link_text(const Node& node) const;
  [[nodiscard]] std::string shown_link_text(const Node& node) const;
  [[nodiscard]] std::size_t depth_of(int fd) const;
  [[nodiscard]] std::size_t depth_of_link(int fd) const;

  // handler_data.cpp: open files
  void open(Request& request);
  void read(Request& request);
  void write(Request& request);
  void flush(Request& request);
  void release(Request& request);
  void fsync(Request& request);
  void fallocate(Request& request);
  void lseek(Request& request);
  void copy_file_range(Request& request);
  /// Set-user-ID and set-group-ID go with what is written, or stay if the caller may keep them.
  class SetIds {
   public:
    /// `keeps`: the caller may write without taking them away (CAP_FSETID over there).
    SetIds(Handler& handler, int fd, bool keeps);

   private:
    static void clear_kept(ExportFileSystem& fs, int fd);
    std::optional<Identity::KeepingSetIds> keeping_;
  };
  fuse_open_out register_open(Node& node, std::uint64_t id, core::FileDescriptor fd);
  void unregister_open(std::uint64_t node, std::uint64_t handle);
  bool content_is_unchanged(Node& node, int fd);

  // handler_directories.cpp
  void opendir(Request& request);
  void readdir(Request& request);
  void readdirplus(Request& request);
  void releasedir(Request& request);
  void fsyncdir(Request& request);
  struct Listing;
  void list(Request& request, bool with_attributes);
  bool add_plain(Listing& listing, const struct DirectoryRecord& record, int directory);
  bool add_with_attributes(Listing& listing, const struct DirectoryRecord& record, int directory);

  // handler_xattrs.cpp
  void getxattr(Request& request);
  void setxattr(Request& request);
  void listxattr(Request& request);
  void removexattr(Request& request);
  void answer_value(Request& request, std::uint32_t room, std::string_view value);

  // handler_locks.cpp
  void getlk(Request& request);
  void setlk(Request& request);
  void setlkw(Request& request);
  void set_lock(Request& request, bool wait);

  ExportFileSystem& fs_;
  const fuse::Device& device_;
  core::ZeroedArray<std::byte> buffer_;  ///< for what is read; costs nothing until it is used
  std::vector<std::uint64_t> listed_;    ///< nodes in the reply that is being made
};

}  // namespace cowfs::hostfs
