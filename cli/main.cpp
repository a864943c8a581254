#include <iostream>

#include "cli/command.hpp"

int main(int argc, char** argv) {
  return cowfs::cli::run({argv, argv + argc}, {std::cout, std::cerr});
}
