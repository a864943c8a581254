#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <type_traits>

#include "hostfs/message.hpp"
#include "hostfs/sandbox.hpp"

namespace cowfs::hostfs {
namespace {

// What serving takes: files, relative to descriptors; memory, threads, time; the few calls that
// change as whom a thread works. The sockets are there already, so there is no socket(2).
constexpr std::array allowed{
    // files
    SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(close), SCMP_SYS(read), SCMP_SYS(write),
    SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(pwritev),
    SCMP_SYS(pwritev2), SCMP_SYS(preadv), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
    SCMP_SYS(fstatfs), SCMP_SYS(getdents64), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(truncate), SCMP_SYS(copy_file_range),
    SCMP_SYS(mkdirat), SCMP_SYS(mknodat), SCMP_SYS(unlinkat), SCMP_SYS(renameat),
    SCMP_SYS(renameat2), SCMP_SYS(linkat), SCMP_SYS(symlinkat), SCMP_SYS(readlinkat),
    SCMP_SYS(fchmodat), SCMP_SYS(fchownat), SCMP_SYS(utimensat), SCMP_SYS(faccessat),
    SCMP_SYS(getxattr), SCMP_SYS(setxattr), SCMP_SYS(listxattr), SCMP_SYS(removexattr),
    SCMP_SYS(flock), SCMP_SYS(fcntl), SCMP_SYS(fchdir), SCMP_SYS(umask),

    // as whom
    SCMP_SYS(setfsuid), SCMP_SYS(setfsgid), SCMP_SYS(setgroups), SCMP_SYS(capset),
    // the broker
    SCMP_SYS(sendmsg), SCMP_SYS(sendto), SCMP_SYS(recvfrom),
    // memory, threads, time
    SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(mremap),
    SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(gettid),
    SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(exit), SCMP_SYS(exit_group),
    SCMP_SYS(restart_syscall), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep), SCMP_SYS(getrandom)};

// What only somebody else's code would call in here.
constexpr std::array deadly{SCMP_SYS(execve),
                            SCMP_SYS(execveat),
                            SCMP_SYS(fork),
                            SCMP_SYS(vfork),
                            SCMP_SYS(ptrace),
                            SCMP_SYS(process_vm_readv),
                            SCMP_SYS(process_vm_writev),
                            SCMP_SYS(mount),
                            SCMP_SYS(umount2),
                            SCMP_SYS(pivot_root),
                            SCMP_SYS(chroot),
                            SCMP_SYS(open_tree),
                            SCMP_SYS(move_mount),
                            SCMP_SYS(fsopen),
                            SCMP_SYS(fsmount),
                            SCMP_SYS(setns),
                            SCMP_SYS(open_by_handle_at),
                            SCMP_SYS(name_to_handle_at),
                            SCMP_SYS(socket),
                            SCMP_SYS(connect),
                            SCMP_SYS(bind),
                            SCMP_SYS(init_module),
                            SCMP_SYS(finit_module),
                            SCMP_SYS(kexec_load),
                            SCMP_SYS(bpf),
                            SCMP_SYS(perf_event_open),
                            SCMP_SYS(userfaultfd),
                            SCMP_SYS(io_uring_setup),
                            SCMP_SYS(pidfd_getfd),
                            SCMP_SYS(keyctl),
                            SCMP_SYS(kill),
                            SCMP_SYS(setuid),
                            SCMP_SYS(setresuid),
                            SCMP_SYS(setreuid)};

struct Release {
  void operator()(std::remove_pointer_t<scmp_filter_ctx>* filter) const {
    ::seccomp_release(filter);
  }
};

scmp_arg_cmp argument_is(unsigned number, std::uint64_t value) {
  return {number, SCMP_CMP_EQ, value, 0};
}

void check_result(int result) {
  if (result != 0) fail(-result);
}

}  // namespace

void install_seccomp_filter() {
  const std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, Release> filter(
      ::seccomp_init(SCMP_ACT_ERRNO(ENOSYS)));
  if (!filter) fail(ENOMEM);
  // As a tree: the calls that serving makes come out of a list of 70 in a few steps.
  check_result(::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2));
  for (const int call : allowed) {
    check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0));
  }
  for (const int call : deadly) {
    check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_KILL_PROCESS, call, 0));
  }
  // Threads, but no processes. clone3(2), whose flags a filter can't see, is ENOSYS: libc then
  // takes this one.
  check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)));
  // A working directory for each thread, and no namespace.
  check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(unshare), 1,
                                  argument_is(0, CLONE_FS)));
  check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                                  argument_is(0, PR_SET_NAME)));
  // Its own limits, to look at.
  check_result(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2,
                                  argument_is(0, 0), argument_is(2, 0)));
  check_result(::seccomp_load(filter.get()));
}

}  // namespace cowfs::hostfs
