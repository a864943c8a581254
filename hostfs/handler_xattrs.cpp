// Requests on extended attributes: those that the export's policy permits, and never its own.

#include <linux/limits.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstring>

#include "hostfs/handler.hpp"

namespace cowfs::hostfs {
namespace {

/// Calls on attributes need a path or a descriptor for I/O: see OwnFiles::enter.
OwnFileName path_of(const Node& node) { return OwnFileName(node.fd.get()); }

const char* checked_xattr_name(std::string_view name) {
  if (name.size() > XATTR_NAME_MAX) fail(ERANGE);
  if (name.empty()) fail(EINVAL);
  return name.data();
}

}  // namespace

void Handler::answer_value(Request& request, std::uint32_t room, std::string_view value) {
  if (room == 0) {
    fuse_getxattr_out size{};
    size.size = static_cast<std::uint32_t>(value.size());
    answer_with(request, size);
  } else if (value.size() > room) {
    device_.reply_error(request.header.unique, ERANGE);
  } else {
    answer(request, {{const_cast<char*>(value.data()), value.size()}});
  }
}

void Handler::getxattr(Request& request) {
  const auto in = request.in.take<fuse_getxattr_in>();
  const auto text = request.in.take_text();
  const auto* name = checked_xattr_name(text);
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  if (!is_permitted_xattr(text, fs_.options_.xattrs)) {
    device_.reply_error(request.header.unique,
                        fs_.options_.xattrs == XattrPolicy::none ? EOPNOTSUPP : ENODATA);
    return;
  }
  auto* value = reinterpret_cast<char*>(buffer_.data());
  const auto length = ::getxattr(path_of(*node).c_str(), name, value, XATTR_SIZE_MAX);
  if (length < 0) {
    device_.reply_error(request.header.unique, errno);
    return;
  }
  answer_value(request, in.size, {value, static_cast<std::size_t>(length)});
}

void Handler::setxattr(Request& request) {
  fuse_setxattr_in in{};
  if (fs_.extended_setxattr_) {
    in = request.in.take<fuse_setxattr_in>();
  } else {
    const auto start = request.in.take_bytes(FUSE_COMPAT_SETXATTR_IN_SIZE);
    std::memcpy(&in, start.data(), start.size());
  }
  const auto text = request.in.take_text();
  const auto* name = checked_xattr_name(text);
  const auto value = request.in.take_bytes(in.size);
  if (value.size() > XATTR_SIZE_MAX) fail(E2BIG);
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  if (!is_permitted_xattr(text, fs_.options_.xattrs)) {
    fail(text.starts_with(own_xattr_prefix) ? EPERM : EOPNOTSUPP);
  }
  // An ACL may change the mode; set-group-ID stays only if the caller may set it.
  std::optional<Identity::KeepingSetIds> keeping;
  if ((in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) == 0 && !request.squashed &&
      text.starts_with("system.")) {
    keeping.emplace(fs_.identity_);
  }
  if (::setxattr(path_of(*node).c_str(), name, value.data(), value.size(),
                 static_cast<int>(in.flags)) != 0) {
    fail(errno);
  }
  answer_done(request);
}

void Handler::listxattr(Request& request) {
  const auto in = request.in.take<fuse_getxattr_in>();
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  auto* names = reinterpret_cast<char*>(buffer_.data());
  const auto length = ::listxattr(path_of(*node).c_str(), names, XATTR_LIST_MAX);
  if (length < 0) fail(errno);
  answer_value(request, in.size,
               permitted_xattrs({names, static_cast<std::size_t>(length)}, fs_.options_.xattrs));
}

void Handler::removexattr(Request& request) {
  const auto text = request.in.take_text();
  const auto* name = checked_xattr_name(text);
  const auto node = fs_.nodes_.pin(request.header.nodeid);
  if (!is_permitted_xattr(text, fs_.options_.xattrs)) {
    fail(text.starts_with(own_xattr_prefix) ? EPERM : EOPNOTSUPP);
  }
  if (::removexattr(path_of(*node).c_str(), name) != 0) fail(errno);
  answer_done(request);
}

}  // namespace cowfs::hostfs
