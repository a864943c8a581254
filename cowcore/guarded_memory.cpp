#include "cowcore/guarded_memory.hpp"

#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace cowfs::core {
namespace {

std::atomic<bool> guarded = false;

/// Where a thread that reads mapped memory goes on after a SIGBUS; null while it does not.
thread_local sigjmp_buf* volatile way_out = nullptr;

void leave(int number, siginfo_t* info, void* /*context*/) {
  const bool is_fault = info->si_code > 0;  // somebody's kill(2) is none
  if (is_fault && way_out != nullptr) {
    // The jump does not come back through the kernel, which would open the signal's mask again.
    sigset_t mask;
    ::sigemptyset(&mask);
    ::sigaddset(&mask, number);
    ::pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
    ::siglongjmp(*way_out, 1);
  }
  // Not ours: it ends the process when this returns, also one that somebody has sent.
  ::signal(number, SIG_DFL);
  ::raise(number);
}

std::uintptr_t page_size() {
  static const auto size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

void touch(const iovec& piece) noexcept {
  const auto* at = static_cast<const std::byte*>(piece.iov_base);
  const auto* end = at + piece.iov_len;
  for (auto before = reinterpret_cast<std::uintptr_t>(at) % page_size(); at < end; before = 0) {
    static_cast<void>(*static_cast<const volatile std::byte*>(at));
    at += page_size() - before;
  }
}

}  // namespace

void guard_mapped_memory() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = leave;
    action.sa_flags = SA_SIGINFO;
    guarded = ::sigaction(SIGBUS, &action, nullptr) == 0;
  });
}

bool mapped_memory_is_guarded() { return guarded.load(std::memory_order_relaxed); }

// Both leave in the middle when a page is missing: nothing in them may need to be undone.

bool touch_pages(std::span<const iovec> pieces) noexcept {
  sigjmp_buf place;
  const bool all = sigsetjmp(place, 0) == 0;
  if (all) {
    way_out = &place;
    for (const auto& piece : pieces) touch(piece);
  }
  way_out = nullptr;
  return all;
}

bool copy_guarded(std::span<const GuardedCopy> copies) noexcept {
  sigjmp_buf place;
  const bool all = sigsetjmp(place, 0) == 0;
  if (all) {
    way_out = &place;
    // For the handler the copies come between the two: the compiler need not keep them there.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    for (const auto& copy : copies) std::memcpy(copy.to, copy.from, copy.length);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  way_out = nullptr;
  return all;
}

}  // namespace cowfs::core
