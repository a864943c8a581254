#include "fuse/session.hpp"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cowcore/zeroed_array.hpp"
#include "fuse/init_request.hpp"

namespace cowfs::fuse {
namespace {

/// The largest request is a write, and its headers.
constexpr std::size_t headers_bytes = 4096;

constexpr int wake_signal = SIGUSR2;

Log* library_log = nullptr;  // libfuse's logging has no place for a context

void log_for_library(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 512> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string text(line.data());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (library_log == nullptr || text.empty()) return;
  level <= FUSE_LOG_ERR ? library_log->error(text) : library_log->info(text);
}

}  // namespace

unsigned default_threads() { return std::clamp(2 * std::thread::hardware_concurrency(), 4U, 16U); }

void allow_parallel_requests(fuse_conn_info& connection) {
  connection.want |= connection.capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ);
  connection.max_write = static_cast<unsigned>(longest_transfer);
  connection.max_background = 64;
  connection.congestion_threshold = 48;
}

void Session::DestroySession::operator()(fuse_session* session) const {
  fuse_session_destroy(session);
}

Session::Session(const Device& device, FileSystem& file_system, unsigned threads, Log& log)
    : device_(device),
      file_system_(file_system),
      log_(log),
      threads_(threads),
      states_(std::make_unique<ThreadState[]>(threads)) {
  library_log = &log;
  fuse_set_log_func(log_for_library);
  fuse_lowlevel_ops operations = file_system.operations();
  operations.init = initialise;
  std::string program = "cowfs";
  std::array arguments{program.data()};
  fuse_args args{static_cast<int>(arguments.size()), arguments.data(), 0};
  session_.reset(fuse_session_new(&args, &operations, sizeof operations, this));
  fuse_opt_free_args(&args);
  fuse_custom_io io{};
  io.writev = send_hook;
  io.read = receive_hook;
  // The library closes the descriptor that it is given.
  const int fd = ::fcntl(device.descriptor(), F_DUPFD_CLOEXEC, 3);
  if (!session_ || fd < 0 || fuse_session_custom_io(session_.get(), &io, fd) != 0) {
    throw std::runtime_error("cannot start a libfuse session");
  }
}

Session::~Session() {
  session_.reset();
  library_log = nullptr;
}

FileSystem& Session::file_system(fuse_req* request) {
  return static_cast<Session*>(fuse_req_userdata(request))->file_system_;
}

void Session::initialise(void* userdata, fuse_conn_info* connection) {
  static_cast<Session*>(userdata)->file_system_.negotiate(*connection);
}

ssize_t Session::send_hook(int /*fd*/, iovec* message, int count, void* userdata) {
  return static_cast<Session*>(userdata)->send({message, static_cast<std::size_t>(count)});
}

ssize_t Session::receive_hook(int fd, void* buffer, std::size_t length, void* /*userdata*/) {
  return ::read(fd, buffer, length);  // libfuse demands one; serve() reads by itself
}

/// Sends a message of libfuse's, adding to the INIT reply what the library can't say.
ssize_t Session::send(std::span<iovec> message) {
  if (!negotiating_ || message.size() != 2 || message[1].iov_len < sizeof(fuse_init_out)) {
    return device_.send(message);
  }
  fuse_init_out reply{};
  std::memcpy(&reply, message[1].iov_base, sizeof reply);
  const auto offered2 = static_cast<std::uint32_t>(offered_flags_ >> 32);
  const auto flags2 = file_system_.choose_flags2(offered2) & offered2;
  if (flags2 != 0) {
    reply.flags |= FUSE_INIT_EXT;
    reply.flags2 |= flags2;
  }
  file_system_.amend_init(offered_flags_, reply);
  const std::array<iovec, 2> changed{message[0], iovec{&reply, sizeof reply}};
  return device_.send(changed);
}

void Session::negotiate(std::span<std::byte> request) {
  offered_flags_ = offered_flags(request);
  negotiating_ = true;
  pass_to_library(request);
  negotiating_ = false;
}

void Session::pass_to_library(std::span<std::byte> request) {
  fuse_buf buffer{};
  buffer.size = request.size();
  buffer.mem = request.data();
  fuse_session_process_buf(session_.get(), &buffer);
}

bool Session::serve_one(std::span<std::byte> buffer, RequestHandler& handler, ThreadState& state) {
  std::size_t length = 0;
  state.waiting.store(true, std::memory_order_relaxed);
  const auto received = device_.receive(buffer, length);
  state.waiting.store(false, std::memory_order_relaxed);
  switch (received) {
    case Device::Received::closed:
      stopping_ = true;  // serve() tells the others
      return true;
    case Device::Received::interrupted:
      return true;
    case Device::Received::needs_room:
      return false;
    case Device::Received::request:
      break;
  }
  if (length < sizeof(fuse_in_header)) return true;  // no kernel sends that, and nobody waits
  const auto request = buffer.first(length);
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  if (!handler.handle(*header, request.subspan(sizeof *header))) {
    if (header->opcode == FUSE_INTERRUPT) {
      // Nothing there takes so long that giving up half-way would help; the kernel stops asking.
      device_.reply_error(header->unique, ENOSYS);
    } else {
      pass_to_library(request);
    }
  }
  state.answered.store(state.answered.load(std::memory_order_relaxed) + 1,
                       std::memory_order_relaxed);
  return true;
}

/// Serves with room for transfers of this length, until the end; or until the kernel wants more.
void Session::serve_transfers(std::size_t longest, RequestHandler& handler, ThreadState& state) {
  core::ZeroedArray<std::byte> buffer(longest + headers_bytes);
  // With all its pages: the kernel brings in none for a process that is just being killed, and
  // would fail the request that it had begun to copy, where the next worker could have it.
  ::madvise(buffer.data(), buffer.size(), MADV_POPULATE_WRITE);
  while (!stopping_ && serve_one({buffer.data(), buffer.size()}, handler, state)) {
  }
}

bool Session::is_serving() {
  std::uint64_t answered = 0;
  bool waiting = false;
  for (unsigned i = 0; i < threads_; ++i) {
    answered += states_[i].answered.load(std::memory_order_relaxed);
    waiting = waiting || states_[i].waiting.load(std::memory_order_relaxed);
  }
  const bool progress = answered != answered_before_;
  answered_before_ = answered;
  return waiting || progress;
}

void Session::stop() {
  const std::lock_guard guard(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void Session::serve(ThreadState& state) noexcept {
  std::exception_ptr failure;
  try {
    const auto handler = file_system_.new_handler(device_);
    for (const auto longest : {longest_transfer, longest_agreed_transfer}) {
      if (!stopping_) serve_transfers(longest, *handler, state);
    }
    if (!stopping_) throw std::runtime_error("/dev/fuse: requests are longer than was agreed on");
  } catch (...) {
    failure = std::current_exception();
  }
  stop();
  const std::lock_guard guard(mutex_);
  if (failure && !failure_) failure_ = failure;
  --serving_;
  changed_.notify_all();
}

void Session::run() {
  // The signal only ends a wait in read(); it has nothing to do.
  struct sigaction nothing {};
  nothing.sa_handler = [](int) {};
  ::sigaction(wake_signal, &nothing, nullptr);

  std::vector<std::jthread> workers;
  serving_ = threads_;
  for (unsigned i = 0; i < threads_; ++i) {
    workers.emplace_back([this, &state = states_[i]] { serve(state); });
  }
  wait_for_threads(workers);
  workers.clear();
  if (failure_) std::rethrow_exception(failure_);
}

void Session::wait_for_threads(std::vector<std::jthread>& workers) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_.load(); });
  // A thread may be about to wait in read() when it is woken, so it is woken until it has ended.
  while (serving_ > 0) {
    for (auto& worker : workers) ::pthread_kill(worker.native_handle(), wake_signal);
    changed_.wait_for(lock, std::chrono::milliseconds(2));
  }
}

}  // namespace cowfs::fuse
