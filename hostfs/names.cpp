#include "hostfs/names.hpp"

namespace cowfs::hostfs {

bool is_permitted_xattr(std::string_view name, XattrPolicy policy) {
  if (policy == XattrPolicy::none) return false;
  if (name.starts_with("user.")) return !name.starts_with(own_xattr_prefix);
  return policy == XattrPolicy::acl &&
         (name == "system.posix_acl_access" || name == "system.posix_acl_default");
}

std::string permitted_xattrs(std::string_view list, XattrPolicy policy) {
  std::string permitted;
  while (!list.empty()) {
    const auto name = list.substr(0, list.find('\0'));
    list.remove_prefix(std::min(name.size() + 1, list.size()));
    if (name.empty() || !is_permitted_xattr(name, policy)) continue;
    permitted.append(name);
    permitted.push_back('\0');
  }
  return permitted;
}

namespace {

/// The next component of a path, which is taken off it; empty at its end.
std::string_view take_component(std::string_view& path) {
  const auto begin = std::min(path.find_first_not_of('/'), path.size());
  const auto end = std::min(path.find('/', begin), path.size());
  const auto component = path.substr(begin, end - begin);
  path.remove_prefix(end);
  return component;
}

}  // namespace

bool stays_inside(std::string_view target, std::size_t depth) {
  bool goes_down = false;
  for (auto part = take_component(target); !part.empty(); part = take_component(target)) {
    if (part == "..") {
      if (goes_down || depth == 0) return false;
      --depth;
    } else if (part != ".") {
      goes_down = true;
    }
  }
  return true;
}

std::string seen_from_root(std::string_view target, std::string_view root) {
  if (root == "/") root = "";
  // "/srv/ab" does not lie below "/srv/a".
  const bool below =
      target.starts_with(root) && (target.size() == root.size() || target[root.size()] == '/');
  if (!below) fail(EPERM);
  const auto rest = target.substr(root.size());
  if (!stays_inside(rest, 0)) fail(EPERM);
  return rest.empty() ? "/" : std::string(rest);
}

std::string seen_from_host(std::string_view target, std::string_view root) {
  if (!stays_inside(target, 0)) fail(EPERM);
  if (root == "/") root = "";
  return std::string(root) + std::string(target);
}

}  // namespace cowfs::hostfs
