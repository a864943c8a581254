#include "tests/integration/posix/call.hpp"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace cowfs::tests::posix {
namespace {

const std::vector<const Operation*>& all_operations() {
  static const auto all = [] {
    std::vector<const Operation*> operations;
    for (const auto& some : {path_operations(), attribute_operations(), file_operations()}) {
      for (const auto& one : some) operations.insert(operations.end(), one.weight, &one);
    }
    return operations;
  }();
  return all;
}

/// Few, so that calls meet; see Side for what they are at the beginning.
constexpr std::array names{"a", "b", "c", "d", "e", "f", "link", "dirlink", "loop", "sticky"};
constexpr std::array odd_paths{"",    ".",       "d/.",        "d/..",       "d/../a", "a/",
                               "a/b", "./d//b/", "loop/a",     "dirlink/..", "d/./b",  "missing/a",
                               "e/",  "link/",   "dirlink/b/", "dangling/a"};

std::string random_path(TestRandom& random) {
  if (random.one_in(12)) return odd_paths.at(random.between(0, odd_paths.size() - 1));
  if (random.one_in(100)) return std::string(random.between(254, 257), 'x');
  if (random.one_in(200)) return "d/" + std::string(4200, '/') + "a";
  const auto name = [&] { return names.at(random.between(0, names.size() - 1)); };
  std::string path;
  while (random.one_in(3)) path += random.one_in(2) ? "d/" : fmt::format("{}/", name());
  return path + name();
}

off_t random_offset(TestRandom& random) {
  constexpr std::array<off_t, 10> odd{-1,
                                      0,
                                      4095,
                                      4096,
                                      4097,
                                      off_t{1} << 32,
                                      (off_t{1} << 44) - 4096,
                                      off_t{1} << 44,
                                      off_t{1} << 62,
                                      INT64_MAX};
  if (random.one_in(10)) return odd.at(random.between(0, odd.size() - 1));
  if (random.one_in(3)) return static_cast<off_t>(random.between(0, 8) * 4096);
  return static_cast<off_t>(random.between(0, 30000));
}

std::size_t random_length(TestRandom& random) {
  if (random.one_in(8)) return 0;
  if (random.one_in(3)) return random.between(1, 4) * 4096;
  return random.between(1, random.one_in(2) ? 100 : longest_transfer);
}

mode_t random_mode(TestRandom& random) {
  constexpr std::array<mode_t, 14> modes{0644,  0600,  0666,  0755,  0777,  0,     0444,
                                         04755, 02755, 06777, 02770, 01777, 02644, 0500};
  return modes.at(random.between(0, modes.size() - 1));
}

}  // namespace

int maybe(const Call& call, unsigned shift, unsigned n, int flag) {
  return ((call.choice >> shift) & 0xff) % n == 0 ? flag : 0;
}

std::string pattern(const Call& call, std::size_t length) {
  std::string text(length, '\0');
  for (std::size_t i = 0; i < length; ++i) {
    text[i] = static_cast<char>('A' + (call.choice + i / 7) % 57);
  }
  return text;
}

Call random_call(TestRandom& random) {
  const auto& all = all_operations();
  return {.operation = all[random.between(0, all.size() - 1)],
          .user = random.one_in(2) ? 0 : random.between(1, users.size() - 1),
          .umask = random.one_in(2)   ? 022U
                   : random.one_in(2) ? 0U
                                      : 077U,
          .path = random_path(random),
          .other_path = random_path(random),
          .slot = random.between(0, slot_count - 1),
          .other_slot = random.between(0, slot_count - 1),
          .choice = random.between(0, UINT64_MAX),
          .offset = random_offset(random),
          .length = random_length(random),
          .mode = random_mode(random)};
}

const Operation& operation_named(const std::string& name) {
  for (const auto* operation : all_operations()) {
    if (name == operation->name) return *operation;
  }
  throw std::out_of_range("no operation " + name);
}

namespace {

/// Not all of what is long.
std::string shown(const std::string& text) {
  return text.size() <= 200 ? text
                            : fmt::format("{}... ({} bytes)", text.substr(0, 200), text.size());
}

}  // namespace

std::string describe(const Call& call) {
  return fmt::format(
      "{} path={} other={} slot={} other={} choice={:#x} offset={} length={} mode={:o} user={} "
      "umask={:o}",
      call.operation->name, shown(call.path), shown(call.other_path), call.slot, call.other_slot,
      call.choice, call.offset, call.length, call.mode, users[call.user].uid, call.umask);
}

std::string describe(const Outcome& outcome) {
  return fmt::format("{} {} \"{}\"", outcome.result,
                     outcome.error == 0 ? "" : ::strerrorname_np(outcome.error),
                     shown(outcome.read));
}

}  // namespace cowfs::tests::posix
