// Runs the power-cut tests: cowfs_crash_tests [--states N] [--seed S] [options of GoogleTest].

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/crash/options.hpp"

namespace cowfs::tests {
namespace {

CrashOptions options;

int run(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (has_value && std::strcmp(argv[i], "--states") == 0) {
      options.states = std::strtoull(argv[++i], nullptr, 0);
    } else if (has_value && std::strcmp(argv[i], "--seed") == 0) {
      ::setenv("COWFS_TEST_SEED", argv[++i], 1);
    } else {
      std::fprintf(stderr, "usage: %s [--states N] [--seed S]\n", argv[0]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}

}  // namespace

const CrashOptions& crash_options() { return options; }

}  // namespace cowfs::tests

int main(int argc, char** argv) { return cowfs::tests::run(argc, argv); }
