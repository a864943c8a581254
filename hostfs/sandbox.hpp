// The jail: what a worker gives up before it takes the first request.
//
// The order matters, and each step is there for a way out that the others leave:
// 1. New mount, PID, network, IPC, UTS and cgroup namespaces (an ordinary user's worker also gets a
//    user namespace, in which it has itself and nobody else). So there is no other process to
//    signal, trace or look at in /proc, and no network. The program is executed before that: were
//    its file in the new mount namespace, it would keep the old root of that one, and with it every
//    mount that an ordinary user can't take off by itself.
// 2. The exported directory becomes the root: a copy of its mount, without what is mounted below
//    it, nodev, nosuid, noexec (and read-only), is what pivot_root(2) puts in the place of the old
//    root, which is then taken off. A descriptor that leads up (a directory that the host moves out
//    of the export while it is in use) leads into that file system alone.
// 3. All descriptors but the worker's own are closed; core dumps are off; the environment was left
//    behind at exec.
// 4. Capabilities, also the bounding set: none, or the few that root's worker works with
//    (hostfs/identity.hpp). No new privileges.
// 5. Landlock: the file system below the root, and no network, whatever becomes of the rest.
// 6. A seccomp filter: the system calls that serving takes. What no worker ever calls and an
//    attacker would (execve, mount, ptrace, open_by_handle_at and their like) ends the process;
//    anything else that is not on the list fails with ENOSYS.
//
// A step that fails ends the start: there is no export with half a jail.
#pragma once

#include <boost/filesystem/path.hpp>
#include <string>

#include "cowcore/file_descriptor.hpp"
#include "hostfs/options.hpp"

namespace cowfs::hostfs {

/// Step 1: goes on in a new process, a child of this one's parent, which is the first of its PID
/// namespace. The process that is left behind ends, with status 0. Nothing happens unless `sandbox`
/// is the jail. Throws core::Error.
void enter_namespaces(SandboxKind sandbox);

/// What the jailed process works with.
struct Jail {
  core::FileDescriptor root;       ///< O_PATH, the export's directory
  core::FileDescriptor own_files;  ///< /proc/self/fd, O_PATH
  // For describe_confinement: read when all is done.
  core::FileDescriptor status;  ///< /proc/self/status
  core::FileDescriptor mounts;  ///< /proc/self/mountinfo
};

/// Steps 2 and 3. `directory` is what was opened as the export's directory; `path`, its name, must
/// still lead to it. Keeps the descriptors 0 to `last_kept`, and those of the result. Throws
/// core::Error that names the step.
[[nodiscard]] Jail enter_jail(const boost::filesystem::path& path, core::FileDescriptor directory,
                              const ExportOptions& options, int last_kept);

/// Steps 4 to 6, for a process with one thread. Throws core::Error that names the step.
void drop_privileges(const ExportOptions& options, bool is_root, const Jail& jail);

/// What is in force for this process, one line each, as the kernel tells it (/proc/self/status, its
/// mounts, its limits), not as it was asked for.
[[nodiscard]] std::string describe_confinement(const Jail& jail);

// The parts of drop_privileges.

/// The version of Landlock in force; 0 if the kernel has none. `root` is an O_PATH descriptor.
/// Throws std::system_error.
int restrict_by_landlock(int root, bool devices);
/// Throws std::system_error.
void install_seccomp_filter();

}  // namespace cowfs::hostfs
