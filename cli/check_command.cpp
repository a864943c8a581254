#include <fmt/format.h>
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/command.hpp"
#include "cowcore/check_cow.hpp"
#include "cowcore/cow_description.hpp"
#include "cowcore/errors.hpp"
#include "cowcore/left_behind.hpp"
#include "cowcore/pending_file.hpp"
#include "cowcore/posix_storage.hpp"

namespace cowfs::cli {
namespace {

using core::Finding;

struct CheckOptions {
  std::string cow;
  bool repair = false;
  bool apply_pending = false;
  bool drop_pending = false;
  bool json = false;
};

void require_something(const core::LeftBehind& left, const std::string& cow) {
  if (left.state == core::LeftBehind::State::nothing) {
    throw core::Error(cow, "no mount that was killed has left anything");
  }
}

/// Does what the user has decided about what a killed mount has left.
int settle_pending(const CheckOptions& options, std::ostream& out) {
  const auto cow =
      core::PosixStorage::open(options.cow, core::Access::read_write, core::FileKinds::regular);
  cow->lock(core::LockKind::exclusive);
  const auto description = core::describe_cow(*cow);
  const auto directory = core::run_directory();
  const auto left =
      directory ? core::find_left_behind(*directory, *cow, description) : core::LeftBehind{};
  require_something(left, options.cow);
  if (options.drop_pending) {
    core::drop_left_behind(left);
    fmt::print(out, "{}: dropped {} written sectors that a killed mount had left\n", options.cow,
               left.sectors);
  } else if (left.state == core::LeftBehind::State::damaged) {
    throw core::Error(left.file.string(), "is damaged and can't be applied", "use --drop-pending");
  } else {
    core::apply_left_behind(left, *cow, description);
    fmt::print(out, "{}: applied {} written sectors that a killed mount had left\n", options.cow,
               left.sectors);
  }
  return exit_done;
}

const char* severity_name(Finding::Severity severity) {
  return severity == Finding::Severity::damage ? "damage" : "remark";
}

/// The keys are documented in cowfs-check(1) and stay as they are.
nlohmann::ordered_json to_json(const std::vector<Finding>& findings) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& finding : findings) {
    list.push_back({{"finding", finding.name},
                    {"severity", severity_name(finding.severity)},
                    {"what", finding.what},
                    {"advice", finding.advice},
                    {"repairable", finding.repairable},
                    {"count", finding.count},
                    {"first", finding.first ? nlohmann::ordered_json(*finding.first)
                                            : nlohmann::ordered_json(nullptr)}});
  }
  return list;
}

void print_text(std::ostream& out, const std::string& cow, const core::CheckResult& result) {
  for (const auto& finding : result.repaired) {
    fmt::print(out, "{}: repaired: {}\n", cow, finding.what);
  }
  for (const auto& finding : result.findings) {
    fmt::print(out, "{}: {}: {}{}{}\n", cow, severity_name(finding.severity), finding.what,
               finding.advice.empty() ? "" : "; ", finding.advice);
  }
  fmt::print(out, "{}: {}\n", cow, result.is_damaged() ? "damaged" : "in order");
}

int check(const CheckOptions& options, std::ostream& out) {
  if (options.apply_pending || options.drop_pending) return settle_pending(options, out);
  const auto result = options.repair ? core::repair_cow(options.cow) : core::check_cow(options.cow);
  if (options.json) {
    const nlohmann::ordered_json json{{"cow", options.cow},
                                      {"damaged", result.is_damaged()},
                                      {"findings", to_json(result.findings)},
                                      {"repaired", to_json(result.repaired)}};
    out << json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  } else {
    print_text(out, options.cow, result);
  }
  return result.is_damaged() ? exit_damaged_cow : exit_done;
}

}  // namespace

void add_check_command(CLI::App& app, const Streams& streams, Action& chosen) {
  const auto options = std::make_shared<CheckOptions>();
  auto* command = app.add_subcommand("check", "Check a COW file that is not in use, and mend it");
  command->add_option("COW", options->cow, "The COW file")->required();
  auto* repair =
      command->add_flag("--repair", options->repair, "Mend what can be mended without guessing");
  auto* apply = command->add_flag("--apply-pending", options->apply_pending,
                                  "Put on disk what a killed mount has left");
  auto* drop = command->add_flag("--drop-pending", options->drop_pending,
                                 "Forget what a killed mount has left");
  auto* json = command->add_flag("--json", options->json, "Print JSON");
  apply->excludes(repair)->excludes(drop)->excludes(json);
  drop->excludes(repair)->excludes(json);
  command->callback([&chosen, &streams, options] {
    chosen = [&streams, options] { return check(*options, streams.out); };
  });
}

}  // namespace cowfs::cli
