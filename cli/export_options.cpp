#include "cli/export_options.hpp"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <charconv>
#include <map>
#include <optional>
#include <string_view>

#include "cli/command.hpp"
#include "cli/option_list.hpp"

namespace cowfs::cli {
namespace {

using hostfs::ExportOptions;

constexpr std::string_view this_command = "export";
constexpr unsigned most_threads = 256;
constexpr unsigned most_descriptors = 1U << 30;
constexpr double longest_timeout = 86400;

[[noreturn]] void refuse(const ListedOption& option, std::string_view problem) {
  refuse_option(option.text, problem, this_command);
}

std::optional<std::uint32_t> parse_id(std::string_view text) {
  std::uint32_t id = 0;
  const auto* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, id);
  // The last number is no user: calls take it for "unchanged".
  if (text.empty() || error != std::errc{} || next != end || id == 0xffffffff) return std::nullopt;
  return id;
}

gid_t group_of(const ListedOption& option, const std::string& name) {
  if (const auto id = parse_id(name)) return *id;
  const auto* found = ::getgrnam(name.c_str());
  if (found == nullptr) refuse(option, fmt::format("there is no group '{}'", name));
  return found->gr_gid;
}

/// USER[:GROUP], by names or numbers; a user's own group and supplementary ones unless one is
/// given.
hostfs::Account account_of(const ListedOption& option) {
  const std::string text(option.value.value_or(""));
  const auto colon = text.find(':');
  const auto user = text.substr(0, colon);
  const auto number = parse_id(user);
  const auto* entry = number ? ::getpwuid(*number) : ::getpwnam(user.c_str());
  if (entry == nullptr && (!number || colon == std::string::npos)) {
    refuse(option, fmt::format("there is no user '{}'", user));
  }
  hostfs::Account account;
  account.uid = number ? *number : entry->pw_uid;
  if (colon != std::string::npos) {
    account.gid = group_of(option, text.substr(colon + 1));
    return account;
  }
  account.gid = entry->pw_gid;
  int count = 64;
  account.groups.resize(static_cast<std::size_t>(count));
  if (::getgrouplist(entry->pw_name, account.gid, account.groups.data(), &count) < 0) {
    account.groups.resize(static_cast<std::size_t>(count));
    (void)::getgrouplist(entry->pw_name, account.gid, account.groups.data(), &count);
  }
  account.groups.resize(static_cast<std::size_t>(count));
  return account;
}

/// {u|g|b}:INSIDE:OUTSIDE:COUNT, for users, groups or both.
void add_map(const ListedOption& option, ExportOptions& options) {
  const auto text = option.value.value_or("");
  const auto kind = text.substr(0, 2);
  if (kind != "u:" && kind != "g:" && kind != "b:") {
    refuse(option, "takes u:, g: or b: (both), and then INSIDE:OUTSIDE:COUNT");
  }
  const auto range = hostfs::parse_id_range(text.substr(2));
  if (!range) refuse(option, "takes three numbers, INSIDE:OUTSIDE:COUNT");
  const bool fits =
      (kind == "g:" || options.users.add(*range)) && (kind == "u:" || options.groups.add(*range));
  if (!fits) refuse(option, "overlaps another range");
}

void set_anonymous(const ListedOption& option, ExportOptions& options) {
  const auto text = option.value.value_or("");
  const auto colon = text.find(':');
  const auto uid = parse_id(text.substr(0, colon));
  const auto gid = colon == std::string_view::npos ? uid : parse_id(text.substr(colon + 1));
  if (!uid || !gid || *uid == 0) refuse(option, "takes UID or UID:GID, other than root's");
  options.anonymous_user = *uid;
  options.anonymous_group = *gid;
}

double parse_timeout(const ListedOption& option) {
  const auto text = option.value.value_or("");
  double seconds = -1;
  const auto* end = text.data() + text.size();
  const auto [next, error] = std::from_chars(text.data(), end, seconds, std::chars_format::fixed);
  if (error != std::errc{} || next != end || !(seconds >= 0) || seconds > longest_timeout) {
    refuse(option, "takes seconds, e.g. 0.5, up to a day");
  }
  return seconds;
}

using Setter = void (*)(const ListedOption&, ExportOptions&);

/// Options that are a word, or a word for each of their values.
const std::map<std::string_view, void (*)(ExportOptions&)>& words() {
  using namespace hostfs;
  static const std::map<std::string_view, void (*)(ExportOptions&)> table{
      {"ro", [](auto& o) { o.read_only = true; }},
      {"rw", [](auto& o) { o.read_only = false; }},
      {"allow_other", [](auto& o) { o.allow_other = true; }},
      {"squash", [](auto& o) { o.squash = Squash::root; }},
      {"squash=root", [](auto& o) { o.squash = Squash::root; }},
      {"squash=all", [](auto& o) { o.squash = Squash::all; }},
      {"squash=none", [](auto& o) { o.squash = Squash::none; }},
      {"metadata=host", [](auto& o) { o.metadata = MetadataPolicy::host; }},
      {"metadata=xattr", [](auto& o) { o.metadata = MetadataPolicy::xattr; }},
      {"symlinks=keep", [](auto& o) { o.symlinks = SymlinkPolicy::keep; }},
      {"symlinks=inside", [](auto& o) { o.symlinks = SymlinkPolicy::inside; }},
      {"symlinks=refuse", [](auto& o) { o.symlinks = SymlinkPolicy::refuse; }},
      {"submounts=no", [](auto& o) { o.submounts = false; }},
      {"submounts=yes", [](auto& o) { o.submounts = true; }},
      {"devices=no", [](auto& o) { o.devices = false; }},
      {"devices=yes", [](auto& o) { o.devices = true; }},
      {"xattrs=none", [](auto& o) { o.xattrs = XattrPolicy::none; }},
      {"xattrs=user", [](auto& o) { o.xattrs = XattrPolicy::user; }},
      {"xattrs=acl", [](auto& o) { o.xattrs = XattrPolicy::acl; }},
      {"cache=auto", [](auto& o) { o.cache = CachePolicy::automatic; }},
      {"cache=always", [](auto& o) { o.cache = CachePolicy::always; }},
      {"cache=never", [](auto& o) { o.cache = CachePolicy::never; }},
      {"passthrough=on", [](auto& o) { o.passthrough = true; }},
      {"passthrough=off", [](auto& o) { o.passthrough = false; }},
  };
  return table;
}

/// Options that take a value of many.
const std::map<std::string_view, Setter>& settings() {
  static const std::map<std::string_view, Setter> table{
      {"as", [](auto& option, auto& o) { o.as = account_of(option); }},
      {"map", add_map},
      {"anon", set_anonymous},
      {"timeout", [](auto& option, auto& o) { o.timeout = parse_timeout(option); }},
      {"max-inodes",
       [](auto& option, auto& o) {
         o.max_inodes = parse_option_number(option, 1, most_descriptors, this_command);
       }},
      {"max-open",
       [](auto& option, auto& o) {
         o.max_open = parse_option_number(option, 1, most_descriptors, this_command);
       }},
      {"threads",
       [](auto& option, auto& o) {
         o.threads = parse_option_number(option, 1, most_threads, this_command);
       }},
  };
  return table;
}

void apply(const ListedOption& option, GenericOptions generic, ExportOptions& options) {
  if (const auto word = words().find(option.text); word != words().end()) {
    word->second(options);
  } else if (const auto setting = settings().find(option.name);
             setting != settings().end() && option.value) {
    setting->second(option, options);
  } else if (generic == GenericOptions::refuse || !is_generic_option(option.text)) {
    refuse(option, "unknown option");
  }
}

void refuse_contradictions(const ExportOptions& options) {
  const auto contradict = [](bool both, const char* what) {
    if (both) throw UsageError(fmt::format("-o {}; see `cowfs export --help`", what));
  };
  contradict(options.as && options.squash != hostfs::Squash::none,
             "as=, squash: everybody works as one user already");
  contradict(
      options.metadata == hostfs::MetadataPolicy::xattr && options.squash != hostfs::Squash::none,
      "metadata=xattr, squash: owners are not the host's");
  contradict(options.metadata == hostfs::MetadataPolicy::xattr &&
                 options.xattrs == hostfs::XattrPolicy::acl,
             "metadata=xattr, xattrs=acl: ACLs are the host's, owners are not");
}

}  // namespace

hostfs::ExportOptions parse_export_options(const std::vector<std::string>& lists,
                                           GenericOptions generic) {
  ExportOptions options;
  for_each_option(lists, [&](const ListedOption& option) { apply(option, generic, options); });
  refuse_contradictions(options);
  return options;
}

hostfs::SandboxKind parse_sandbox(const std::string& name) {
  if (name == "namespace") return hostfs::SandboxKind::jail;
  if (name == "chroot") return hostfs::SandboxKind::chroot;
  if (name == "none") return hostfs::SandboxKind::none;
  throw UsageError("--sandbox: takes namespace, chroot or none");
}

}  // namespace cowfs::cli
