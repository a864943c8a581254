// What a storage was asked to do, and when.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace cowfs::tests {

/// The operations of core::Storage that touch the file's bytes.
enum class Operation { read, write, sync, punch, reserve, resize, seek, map };

[[nodiscard]] const char* operation_name(Operation operation);

/// One operation that changes the file, or makes a change durable.
///
/// `began` and `ended` come from one clock that ticks at each of them, so of two operations A came
/// wholly before B if A.ended < B.began. A sync covers the changes that came wholly before it.
struct LoggedOperation {
  Operation operation = Operation::write;
  std::uint64_t offset = 0;  ///< of a resize, the new size
  std::uint64_t length = 0;
  std::vector<std::byte> bytes = {};  ///< of a write
  std::uint64_t began = 0;
  std::uint64_t ended = 0;  ///< 0: it has not ended, or has failed
};

/// Thread safety: all functions may be called at once.
class OperationLog {
 public:
  /// The time of several logs, for files that are changed by one thread.
  using Clock = std::shared_ptr<std::uint64_t>;

  explicit OperationLog(Clock clock = std::make_shared<std::uint64_t>(0))
      : clock_(std::move(clock)) {}

  /// Returns where in the log the operation is; `operation.began` is filled in.
  std::size_t begin(LoggedOperation operation);
  void end(std::size_t index);

  /// A moment between what has ended and what will begin.
  std::uint64_t tick();

  /// Everything so far, in the order of `began`.
  [[nodiscard]] std::vector<LoggedOperation> operations() const;
  /// Forgets what was logged. No operation may be under way.
  void clear();

 private:
  mutable std::mutex mutex_;
  Clock clock_;
  std::vector<LoggedOperation> operations_;
};

/// "write 8192+512", for messages.
[[nodiscard]] std::string describe(const LoggedOperation& operation);
/// One line for each.
[[nodiscard]] std::string describe(const std::vector<LoggedOperation>& operations);

}  // namespace cowfs::tests
