// The errors that a user can act on, and the one way in which everything else that goes wrong with
// a file becomes a std::system_error.
#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace cowfs::core {

/// What is wrong with which file, and what to do about it. `what()` is the one line a user reads:
/// "FILE: problem; advice" (without "; advice" where there is none to give).
class Error : public std::runtime_error {
 public:
  Error(const std::string& file, const std::string& problem, const std::string& advice = {})
      : std::runtime_error(file + ": " + problem + (advice.empty() ? "" : "; " + advice)),
        problem_(problem),
        advice_(advice) {}

  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] const std::string& advice() const { return advice_; }

 private:
  std::string problem_;
  std::string advice_;
};

/// The backing is not the one that the COW was made for, or can't be found.
class BackingMismatch : public Error {
 public:
  using Error::Error;
};

/// The COW file is not one, or not whole. Such a file is never used as a raw disk.
class DamagedCow : public Error {
 public:
  using Error::Error;
};

/// Somebody else holds a lock that we need.
class Busy : public Error {
 public:
  using Error::Error;
};

/// Throws a std::system_error of that errno: "FILE: ACTION: No such file or directory".
[[noreturn]] inline void throw_errno(const std::string& file, const char* action,
                                     int error = errno) {
  throw std::system_error(error, std::generic_category(), file + ": " + action);
}

}  // namespace cowfs::core
