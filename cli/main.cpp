#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>

#include "cli/command.hpp"

namespace {

/// A caller may have closed standard streams. The next file to be opened would take their place,
/// and what is meant for a reader would be written into it.
void replace_closed_streams() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) ::close(fd);
}

}  // namespace

int main(int argc, char** argv) try {
  replace_closed_streams();
  // A limit on the size of files is an error of the write (EFBIG), not the end of a daemon. Workers
  // inherit it.
  ::signal(SIGXFSZ, SIG_IGN);
  return cowfs::cli::run({argv, argv + argc}, {std::cout, std::cerr});
} catch (const std::exception& error) {  // of what comes before a subcommand: no memory
  std::fprintf(stderr, "cowfs: %s\n", error.what());
  return cowfs::cli::exit_failed;
}
