// Running another program, without a shell.
#pragma once

#include <boost/filesystem/path.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace cowfs::core {

/// Looks for a program in PATH, and where system programs are, which is not in everybody's PATH.
[[nodiscard]] std::optional<boost::filesystem::path> find_program(const std::string& name);

struct ProgramResult {
  int status = 0;      ///< the exit status; 128 and the number of the signal that ended it
  std::string output;  ///< the beginning of what it wrote to standard output and standard error
};

/// Runs a program to its end; its input is empty. Calls `while_waiting` several times a second: if
/// that throws, the program is ended, and the exception passed on. Throws std::system_error.
[[nodiscard]] ProgramResult run_program(const boost::filesystem::path& program,
                                        const std::vector<std::string>& arguments,
                                        const std::function<void()>& while_waiting);

}  // namespace cowfs::core
