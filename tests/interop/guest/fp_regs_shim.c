/* fp_regs_shim: preloaded into linux.uml, lets Debian 12's UML (6.1) run guests on CPUs with AMX.
 *
 * UML keeps a process's floating-point state in a buffer of fixed size. Where the CPU's state is
 * larger the host kernel takes no part of it (EFAULT from PTRACE_SETREGSET), and the guest panics
 * at its first process: "ptrace set fp regs failed, errno = 14". So, upon that error only, lay
 * UML's part over the whole present state and set that. Every other call passes unchanged. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

enum { getregset = 0x4204, setregset = 0x4205, nt_x86_xstate = 0x202 };

static long (*real_ptrace)(int, int, void*, void*);

/* Early, because UML calls from small stacks on which the dynamic linker has no room. */
__attribute__((constructor)) static void find_real_ptrace(void) {
  void* symbol = dlsym(RTLD_NEXT, "ptrace");
  memcpy(&real_ptrace, &symbol, sizeof symbol);
}

/* Declared here, because <sys/ptrace.h> makes the first argument an enum. */
long ptrace(int request, ...);

long ptrace(int request, ...) {
  va_list arguments;
  va_start(arguments, request);
  const int pid = va_arg(arguments, int);
  void* address = va_arg(arguments, void*);
  void* data = va_arg(arguments, void*);
  va_end(arguments);

  const long result = real_ptrace(request, pid, address, data);
  if (result != -1 || errno != EFAULT || request != setregset || address != (void*)nt_x86_xstate)
    return result;

  static char state[1 << 16];
  const struct iovec* part = data;
  struct iovec whole = {state, sizeof state};
  if (real_ptrace(getregset, pid, address, &whole) != 0) return -1;
  if (part->iov_len >= whole.iov_len) {
    errno = EFAULT;
    return -1;
  }
  memcpy(state, part->iov_base, part->iov_len);
  return real_ptrace(setregset, pid, address, &whole);
}
