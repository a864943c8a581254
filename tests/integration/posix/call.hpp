// One random call on a file system, to be made on two of them. See ../export_posix_test.cpp.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "tests/support/test_random.hpp"

namespace cowfs::tests::posix {

inline constexpr std::size_t slot_count = 5;

struct User {
  uid_t uid;
  std::array<gid_t, 1> groups;  ///< supplementary; the user's own one is numbered as the user is
};
/// Root, and two users of whom the second is in the first one's group.
inline constexpr std::array<User, 3> users{User{0, {0}}, User{12345, {12345}},
                                           User{12346, {12345}}};

class Side;
struct Call;

/// A kind of call. `perform` makes it, as perform(2) does: -1 and errno when it fails. What it read
/// goes into `read`.
struct Operation {
  const char* name;
  unsigned weight;  ///< how often it comes, among the others
  long (*perform)(Side& side, const Call& call, std::string& read);
};

/// All fields are random, whatever an operation makes of them.
struct Call {
  const Operation* operation;
  std::size_t user;  ///< who calls: an index of `users`
  mode_t umask;
  std::string path;
  std::string other_path;
  std::size_t slot;  ///< an open file
  std::size_t other_slot;
  std::uint64_t choice;  ///< which flags, names, and so on
  off_t offset;
  std::size_t length;  ///< up to longest_transfer
  mode_t mode;
};

inline constexpr std::size_t longest_transfer = 20000;

/// What a call gave.
struct Outcome {
  long result;
  int error;
  std::string read;
  bool operator==(const Outcome&) const = default;
};

/// One of several values, by a part of `choice`: eight bits from `shift` on.
template <typename Value, std::size_t Count>
const Value& pick(const Call& call, unsigned shift, const std::array<Value, Count>& values) {
  return values[((call.choice >> shift) & 0xff) % Count];
}
/// `flag` with a chance of one in `n`, by eight bits of the choice.
[[nodiscard]] int maybe(const Call& call, unsigned shift, unsigned n, int flag);

/// What is written: it tells one write from another.
[[nodiscard]] std::string pattern(const Call& call, std::size_t length);

/// Of a chown(2): whether it leaves both owners as they are.
[[nodiscard]] bool names_no_owner(const Call& call);
/// Of a call on extended attributes: whether it is about one outside of "user.".
[[nodiscard]] bool names_unknown_attribute(const Call& call);

[[nodiscard]] Call random_call(TestRandom& random);
[[nodiscard]] std::string describe(const Call& call);
[[nodiscard]] std::string describe(const Outcome& outcome);

// Where the operations are.
[[nodiscard]] std::span<const Operation> path_operations();
[[nodiscard]] std::span<const Operation> attribute_operations();
[[nodiscard]] std::span<const Operation> file_operations();
/// By name. Throws std::out_of_range.
[[nodiscard]] const Operation& operation_named(const std::string& name);

}  // namespace cowfs::tests::posix
