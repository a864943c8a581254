// Serving a FUSE connection with a number of threads.
//
// libfuse takes the messages apart and puts the answers together, save for those that a file system
// answers itself because libfuse cannot say what it wants to say (flags newer than the library) or
// would allocate for it (reads).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "fuse/device.hpp"
#include "fuse/log.hpp"

struct fuse_conn_info;
struct fuse_lowlevel_ops;
struct fuse_req;
struct fuse_session;

namespace cowfs::fuse {

/// Answers requests past libfuse. Each thread of a session has its own.
class RequestHandler {
 public:
  virtual ~RequestHandler() = default;
  /// Answers the request, or returns false to leave it to libfuse. `body` is what follows the
  /// header. Throws nothing: a failure is an error reply. A FUSE_INTERRUPT that is not handled is
  /// answered with ENOSYS: the kernel stops sending them.
  virtual bool handle(const fuse_in_header& header, std::span<const std::byte> body) noexcept = 0;
};

/// What a session serves.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  /// The functions that libfuse calls. They find their file system by `Session::file_system(req)`.
  [[nodiscard]] virtual const fuse_lowlevel_ops& operations() const = 0;
  [[nodiscard]] virtual std::unique_ptr<RequestHandler> new_handler(const Device& device) = 0;
  /// Called with what kernel and library offer, to choose from.
  virtual void negotiate(fuse_conn_info& connection) = 0;
  /// Flags of the INIT reply's upper half (bit 32 and up, FUSE_INIT_EXT) that libfuse does not
  /// know, among those that the kernel `offered`.
  [[nodiscard]] virtual std::uint32_t choose_flags2(std::uint32_t offered) const = 0;
  /// Called last, to change what libfuse would answer to INIT. `offered` are all of the kernel's
  /// flags, flags2 in the upper half.
  virtual void amend_init(std::uint64_t /*offered*/, fuse_init_out& /*reply*/) {}
};

/// The longest read and the longest write, in bytes. Each thread has room for a write, all of it
/// present, and a reader or writer of more is served by several threads at once.
inline constexpr std::size_t longest_transfer = std::size_t{256} << 10;

/// The same, for a mount that an older version has made and a newer one serves on: what is agreed
/// on at FUSE_INIT stays so.
inline constexpr std::size_t longest_agreed_transfer = std::size_t{1} << 20;

/// How many threads serve a session if nobody says: twice the number of processors, from 4 to 16.
[[nodiscard]] unsigned default_threads();

/// Lets the kernel send many requests at once, of `longest_transfer`, for a negotiate().
void allow_parallel_requests(fuse_conn_info& connection);

class Session {
 public:
  /// Serves with `threads` threads. `device` and `file_system` must outlive the session. Throws
  /// std::runtime_error.
  Session(const Device& device, FileSystem& file_system, unsigned threads, Log& log);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  /// Agrees with the kernel on what both can do: `request` is the connection's first, FUSE_INIT.
  /// For a connection that was served before it is the same request again: the kernel, which has
  /// its answer, takes no other.
  void negotiate(std::span<std::byte> request);

  /// Serves until the mount is gone or stop() is called. Throws std::system_error when the device
  /// fails.
  void run();

  /// Whether requests are still being answered: a thread waits for one, or one was answered since
  /// the last call. For one caller, now and then.
  [[nodiscard]] bool is_serving();

  /// Makes run() return after the requests that are being served. From any thread.
  void stop();

  /// The file system of the session that a libfuse request belongs to.
  static FileSystem& file_system(fuse_req* request);

 private:
  struct DestroySession {
    void operator()(fuse_session* session) const;
  };

  /// What a thread of the session is at. Each has its own cache line: it is written at each
  /// request.
  struct alignas(64) ThreadState {
    std::atomic<std::uint64_t> answered = 0;
    std::atomic<bool> waiting = true;
  };

  void serve(ThreadState& state) noexcept;
  void serve_transfers(std::size_t longest, RequestHandler& handler, ThreadState& state);
  /// Returns false if the buffer has no room for what the kernel may send.
  bool serve_one(std::span<std::byte> buffer, RequestHandler& handler, ThreadState& state);
  void pass_to_library(std::span<std::byte> request);
  ssize_t send(std::span<iovec> message);
  void wait_for_threads(std::vector<std::jthread>& workers);
  static void initialise(void* userdata, fuse_conn_info* connection);
  static ssize_t send_hook(int fd, iovec* message, int count, void* userdata);
  static ssize_t receive_hook(int fd, void* buffer, std::size_t length, void* userdata);

  const Device& device_;
  FileSystem& file_system_;
  Log& log_;
  std::unique_ptr<fuse_session, DestroySession> session_;
  bool negotiating_ = false;
  std::uint64_t offered_flags_ = 0;

  const unsigned threads_;
  const std::unique_ptr<ThreadState[]> states_;
  std::uint64_t answered_before_ = 0;  ///< at the last is_serving()

  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;  ///< guards what follows, and the wait for `changed_`
  std::condition_variable changed_;
  unsigned serving_ = 0;  ///< threads that have not ended
  std::exception_ptr failure_;
};

}  // namespace cowfs::fuse
