#include "tests/unit/raw_requests.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <boost/filesystem.hpp>

namespace cowfs::tests {
namespace {

namespace fs = boost::filesystem;

std::string look_at(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return "gone";
  std::string text;
  for (const auto value :
       {static_cast<long>(status.st_mode), static_cast<long>(status.st_uid),
        static_cast<long>(status.st_nlink), static_cast<long>(status.st_mtim.tv_nsec),
        static_cast<long>(status.st_ctim.tv_nsec), static_cast<long>(status.st_size)}) {
    text += std::to_string(value) + " ";
  }
  if (S_ISREG(status.st_mode)) {
    const auto bytes = read_file(path);
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return text;
}

}  // namespace

Injection::Injection() {
  fs::create_directories(outside() / "dir");
  write_file(outside() / "secret", std::string("secret"));
  fs::create_directories(jail() / "dir/deep");
  write_file(jail() / "file", std::string("content of the file"));
  write_file(jail() / "dir/file", std::string("another"));
  fs::create_symlink("../outside/secret", jail() / "link");
  fs::create_symlink("../outside", jail() / "dirlink");
  EXPECT_EQ(::mkfifo((jail() / "fifo").c_str(), 0666), 0);
  before_ = snapshot();
}

Injection::~Injection() { EXPECT_EQ(snapshot(), before_) << "something outside has changed"; }

Injection::Snapshot Injection::snapshot() const {
  Snapshot seen;
  for (const auto& name : names_in(directory_.path())) seen[name] = "";
  seen[outside().string()] = look_at(outside());
  for (const auto& entry : fs::recursive_directory_iterator(outside())) {
    seen[entry.path().string()] = look_at(entry.path());
  }
  return seen;
}

const std::vector<std::uint64_t>& forged_numbers() {
  static const std::vector<std::uint64_t> numbers{0,
                                                  2,
                                                  3,
                                                  0xffffffff,
                                                  std::uint64_t{1} << 32,
                                                  (std::uint64_t{1} << 32) + 100,
                                                  std::uint64_t{7} << 32,
                                                  0x7fff12345678,
                                                  UINT64_MAX,
                                                  UINT64_MAX - 1};
  return numbers;
}

MessageBytes valid_body(std::uint32_t opcode, std::uint64_t handle, std::uint64_t other_node,
                        std::string_view name, std::string_view second) {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_REMOVEXATTR:
      return body_of(name);
    case FUSE_FORGET:
      return body_of(fuse_forget_in{1});
    case FUSE_BATCH_FORGET:
      return body_of(fuse_batch_forget_in{1, 0}, fuse_forget_one{other_node, 1});
    case FUSE_GETATTR:
      return body_of(fuse_getattr_in{});
    case FUSE_SETATTR: {
      fuse_setattr_in in{};
      in.valid = FATTR_MODE | FATTR_SIZE | FATTR_MTIME | FATTR_FH | FATTR_UID;
      in.fh = handle;
      in.size = 100;
      in.mode = 0644;
      return body_of(in);
    }
    case FUSE_SYMLINK:
      return body_of(name, second);
    case FUSE_MKNOD:
      return body_of(fuse_mknod_in{S_IFREG | 0644, 0, 022, 0}, name);
    case FUSE_MKDIR:
      return body_of(fuse_mkdir_in{0755, 022}, name);
    case FUSE_RENAME:
      return body_of(fuse_rename_in{other_node}, name, second);
    case FUSE_RENAME2:
      return body_of(fuse_rename2_in{other_node, 0, 0}, name, second);
    case FUSE_LINK:
      return body_of(fuse_link_in{other_node}, name);
    case FUSE_OPEN:
    case FUSE_OPENDIR:
      return body_of(fuse_open_in{O_RDWR, 0});
    case FUSE_CREATE:
    case tmpfile_opcode:
      return body_of(fuse_create_in{O_RDWR | O_CREAT, 0644, 022, 0}, name);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: {
      fuse_read_in in{};
      in.fh = handle;
      in.size = 4096;
      return body_of(in);
    }
    case FUSE_WRITE: {
      fuse_write_in in{};
      in.fh = handle;
      in.size = 5;
      return body_of(in, std::string_view("data"));
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: {
      fuse_release_in in{};
      in.fh = handle;
      return body_of(in);
    }
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
      return body_of(fuse_fsync_in{handle, 0, 0});
    case FUSE_SETXATTR: {
      fuse_setxattr_in in{};
      in.size = 6;
      return body_of(in, std::string_view("user.name"), std::string_view("value"));
    }
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
      return body_of(fuse_getxattr_in{100, 0}, std::string_view("user.name"));
    case FUSE_FLUSH: {
      fuse_flush_in in{};
      in.fh = handle;
      return body_of(in);
    }
    case FUSE_GETLK:
    case FUSE_SETLK: {
      fuse_lk_in in{};
      in.fh = handle;
      in.owner = 1;
      in.lk = {0, 100, F_RDLCK, 1};
      return body_of(in);
    }
    case FUSE_ACCESS:
      return body_of(fuse_access_in{4, 0});
    case FUSE_INTERRUPT:
      return body_of(fuse_interrupt_in{12345});
    case FUSE_IOCTL: {
      fuse_ioctl_in in{};
      in.fh = handle;
      in.out_size = 4096;
      return body_of(in);
    }
    case FUSE_FALLOCATE:
      return body_of(fuse_fallocate_in{handle, 0, 4096, 0, 0});
    case FUSE_LSEEK:
      return body_of(fuse_lseek_in{handle, 0, SEEK_DATA, 0});
    case FUSE_COPY_FILE_RANGE:
      return body_of(fuse_copy_file_range_in{handle, 0, other_node, handle, 0, 4096, 0});
    default:
      return body_of(std::uint64_t{0}, std::uint64_t{0});
  }
}

std::vector<std::uint32_t> opcodes() {
  std::vector<std::uint32_t> all;
  for (std::uint32_t opcode = 1; opcode <= 52; ++opcode) {
    if (opcode != FUSE_SETLKW && opcode != FUSE_DESTROY) all.push_back(opcode);
  }
  return all;
}

bool has_no_reply(std::uint32_t opcode) {
  return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

}  // namespace cowfs::tests
