// One of the two directories that are compared: calls are made below it, and its state is taken.
#pragma once

#include <sys/stat.h>

#include <array>
#include <boost/filesystem/path.hpp>
#include <map>
#include <memory>
#include <string>

#include "cowcore/file_descriptor.hpp"
#include "tests/integration/posix/call.hpp"

namespace cowfs::tests::posix {

/// Times that calls set lie before this; later ones say only that a time was changed.
inline constexpr time_t times_set_until = 2'000'000'000 / 2;

/// What there is to see of a file; lines that can be compared.
using State = std::map<std::string, std::string>;

/// All of a directory: by path, each entry's type, mode, owner, links, size, times (as far as they
/// were set), attributes and content.
[[nodiscard]] State state_of(const boost::filesystem::path& directory);
/// The same line for one status, without attributes and content.
[[nodiscard]] std::string line_of(const struct stat& status);

/// Thread safety: none. Makes calls as other users, in the thread that calls, so there must be no
/// other threads that depend on them.
class Side {
 public:
  /// Fills the directory, which must be empty, with what every sequence begins with.
  explicit Side(boost::filesystem::path directory);

  /// Makes the call as its user.
  Outcome perform(const Call& call);

  [[nodiscard]] const boost::filesystem::path& path() const { return path_; }
  [[nodiscard]] int directory() const { return directory_.get(); }
  [[nodiscard]] core::FileDescriptor& slot(std::size_t index) { return slots_.at(index); }
  /// -1 if there is none.
  [[nodiscard]] int fd(std::size_t index) const { return slots_.at(index).get(); }
  /// Puts a descriptor in the place of another, if it is one. Returns 0, or -1 with errno
  /// untouched.
  long keep(std::size_t index, int fd);
  /// For what is read and written: aligned for O_DIRECT.
  [[nodiscard]] char* buffer() { return buffer_->data(); }

 private:
  struct alignas(4096) Buffer : std::array<char, std::size_t{1} << 17> {};

  void fill() const;

  boost::filesystem::path path_;
  core::FileDescriptor directory_;
  std::array<core::FileDescriptor, slot_count> slots_;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace cowfs::tests::posix
