#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::cli {
namespace {

struct CheckOptions {
  std::string cow;
  bool apply_pending = false;
  bool drop_pending = false;
};

void require_something(const core::LeftBehind& left, const std::string& cow) {
  if (left.state == core::LeftBehind::State::nothing) {
    throw core::Error(cow, "no mount that was killed has left anything");
  }
}

int check(const CheckOptions& options, std::ostream& out) {
  const bool change = options.apply_pending || options.drop_pending;
  const auto cow = core::PosixStorage::open(
      options.cow, change ? core::Access::read_write : core::Access::read_only,
      core::FileKinds::regular);
  cow->lock(change ? core::LockKind::exclusive : core::LockKind::shared);
  const auto description = core::describe_cow(*cow);
  const auto directory = core::run_directory();
  const auto left =
      directory ? core::find_left_behind(*directory, *cow, description) : core::LeftBehind{};
  if (change) {
    require_something(left, options.cow);
    if (options.drop_pending) {
      core::drop_left_behind(left);
      fmt::print(out, "{}: dropped {} written sectors that a killed mount had left\n", options.cow,
                 left.sectors);
    } else if (left.state == core::LeftBehind::State::damaged) {
      throw core::Error(left.file.string(), "is damaged and can't be applied",
                        "use --drop-pending");
    } else {
      core::apply_left_behind(left, *cow, description);
      fmt::print(out, "{}: applied {} written sectors that a killed mount had left\n", options.cow,
                 left.sectors);
    }
    return exit_done;
  }
  if (left.state != core::LeftBehind::State::nothing) {
    fmt::print(out, "{}: a mount that was killed has left {} written sectors{}{}\n", options.cow,
               left.sectors, left.why.empty() ? "" : ", but ", left.why);
  }
  fmt::print(out, "{}: header and bitmap are in order\n", options.cow);
  return exit_done;
}

}  // namespace

void add_check_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<CheckOptions>();
  auto* command = app.add_subcommand("check", "Check a COW file that is not in use");
  command->add_option("COW", options->cow, "The COW file")->required();
  auto* apply = command->add_flag("--apply-pending", options->apply_pending,
                                  "Put on disk what a killed mount has left");
  command->add_flag("--drop-pending", options->drop_pending, "Forget what a killed mount has left")
      ->excludes(apply);
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return check(*options, streams.out); };
  });
}

}  // namespace cowfs::cli
