// Requests for an export that are well-formed, or nearly, and a tree to send them to.
#pragma once

#include <gtest/gtest.h>

#include <boost/filesystem/path.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_random.hpp"
#include "tests/unit/raw_guest.hpp"

namespace cowfs::tests {

inline constexpr std::uint32_t tmpfile_opcode = 51;  ///< FUSE_TMPFILE of Linux 6.1

/// "outside" with a file, beside "jail" with one of each kind. Fails the test if anything has
/// become of what is outside.
class Injection : public ::testing::Test {
 protected:
  Injection();
  ~Injection() override;

  [[nodiscard]] boost::filesystem::path jail() const { return directory_ / "jail"; }
  [[nodiscard]] boost::filesystem::path outside() const { return directory_ / "outside"; }

 private:
  /// A path to what can be seen of it.
  using Snapshot = std::map<std::string, std::string>;
  [[nodiscard]] Snapshot snapshot() const;

  ::testing::ScopedTrace seed_{__FILE__, __LINE__, seed_hint()};
  TemporaryDirectory directory_;
  Snapshot before_;
};

/// Numbers of nodes or handles that were never given out.
[[nodiscard]] const std::vector<std::uint64_t>& forged_numbers();

/// What a request of this opcode may have after its header; of another one, some zeros.
[[nodiscard]] MessageBytes valid_body(std::uint32_t opcode, std::uint64_t handle,
                                      std::uint64_t other_node, std::string_view name,
                                      std::string_view second);

/// All of the protocol but SETLKW, which may have to wait, and DESTROY.
[[nodiscard]] std::vector<std::uint32_t> opcodes();
[[nodiscard]] bool has_no_reply(std::uint32_t opcode);

}  // namespace cowfs::tests
