// What the subcommands of `cowfs` have in common.
#pragma once

#include <functional>
#include <iosfwd>
#include <stdexcept>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's
class App;
}

namespace cowfs::cli {

/// What the command says to its caller. Documented in cowfs(1).
enum ExitStatus : int {
  exit_done = 0,
  exit_failed = 1,
  exit_usage = 2,
  exit_backing_mismatch = 3,
  exit_damaged_cow = 4,
  exit_in_use = 5,
};

struct Streams {
  std::ostream& out;
  std::ostream& err;
};

/// What the chosen subcommand does; returns an exit status or throws.
using Action = std::function<int()>;

/// A mistake in the arguments that CLI11 does not find.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Each adds its subcommand, which sets `chosen` when it is called for. `chosen` and what `streams`
// refers to must outlive the application.
void add_create_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_mount_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_umount_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_restart_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_serve_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_export_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_serve_export_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_check_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_compare_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_map_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_relocate_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_mkimage_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_info_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_merge_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_compact_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_convert_command(CLI::App& app, const Streams& streams, Action& chosen);
void add_reset_command(CLI::App& app, const Streams& streams, Action& chosen);

/// Makes a whole application of `cowfs create`: as uml_mkcow it is one.
void set_up_create(CLI::App& command, Action& chosen);
/// Gives an application the arguments of uml_moo.
void set_up_uml_moo(CLI::App& app, const Streams& streams, Action& chosen);

/// Runs the action. The one place where an exception becomes an exit status, and a line for
/// `report`.
[[nodiscard]] int perform(const Action& action,
                          const std::function<void(const std::string&)>& report);

/// The whole command: `arguments` as main got them, the program's name first. Called as
/// mount.fuse.cowfs it takes the arguments that mount(8) gives to its helpers; called as uml_mkcow
/// or uml_moo, those of that program.
[[nodiscard]] int run(const std::vector<std::string>& arguments, const Streams& streams);

}  // namespace cowfs::cli
