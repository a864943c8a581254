#include "tests/support/operation_log.hpp"

#include <fmt/format.h>

#include <utility>

namespace cowfs::tests {

const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::read:
      return "read";
    case Operation::write:
      return "write";
    case Operation::sync:
      return "sync";
    case Operation::punch:
      return "punch";
    case Operation::reserve:
      return "reserve";
    case Operation::resize:
      return "resize";
    case Operation::seek:
      return "seek";
    case Operation::map:
      return "map";
  }
  return "unknown";
}

std::size_t OperationLog::begin(LoggedOperation operation) {
  const std::lock_guard guard(mutex_);
  operation.began = ++*clock_;
  operations_.push_back(std::move(operation));
  return operations_.size() - 1;
}

void OperationLog::end(std::size_t index) {
  const std::lock_guard guard(mutex_);
  operations_.at(index).ended = ++*clock_;
}

std::uint64_t OperationLog::tick() {
  const std::lock_guard guard(mutex_);
  return ++*clock_;
}

std::vector<LoggedOperation> OperationLog::operations() const {
  const std::lock_guard guard(mutex_);
  return operations_;
}

void OperationLog::clear() {
  const std::lock_guard guard(mutex_);
  operations_.clear();
}

std::string describe(const LoggedOperation& operation) {
  const auto* name = operation_name(operation.operation);
  if (operation.operation == Operation::sync) return name;
  return fmt::format("{} {}+{}", name, operation.offset, operation.length);
}

std::string describe(const std::vector<LoggedOperation>& operations) {
  std::string lines;
  for (const auto& operation : operations) lines += describe(operation) + "\n";
  return lines;
}

}  // namespace cowfs::tests
