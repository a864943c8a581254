#include "tests/support/faulty_storage.hpp"

#include <algorithm>
#include <system_error>

namespace cowfs::tests {
namespace {

[[noreturn]] void fail(const FaultPlan::Fault& fault, Operation operation) {
  throw std::system_error(fault.error, std::generic_category(),
                          std::string("planned fault: ") + operation_name(operation));
}

}  // namespace

void FaultPlan::add(const Fault& fault) {
  const std::lock_guard guard(mutex_);
  faults_.push_back(fault);
}

void FaultPlan::heal() {
  const std::lock_guard guard(mutex_);
  faults_.clear();
}

std::uint64_t FaultPlan::failures() const {
  const std::lock_guard guard(mutex_);
  return failures_;
}

std::optional<FaultPlan::Fault> FaultPlan::hit(Operation operation, std::uint64_t offset) {
  const std::lock_guard guard(mutex_);
  for (auto fault = faults_.begin(); fault != faults_.end(); ++fault) {
    if (fault->operation.value_or(operation) != operation || offset < fault->from_offset) continue;
    if (--fault->nth > 0) continue;
    const auto found = *fault;
    fault->nth = 1;
    if (!fault->lasting) faults_.erase(fault);
    ++failures_;
    return found;
  }
  return std::nullopt;
}

void FaultyStorage::fail_if_planned(Operation operation, std::uint64_t offset) const {
  if (const auto fault = plan_->hit(operation, offset)) fail(*fault, operation);
}

std::size_t FaultyStorage::read(std::uint64_t offset, std::span<std::byte> into) const {
  fail_if_planned(Operation::read, offset);
  return ForwardingStorage::read(offset, into);
}

void FaultyStorage::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (const auto fault = plan_->hit(Operation::write, offset)) {
    ForwardingStorage::write(offset, from.first(std::min(from.size(), fault->bytes_before)));
    fail(*fault, Operation::write);
  }
  ForwardingStorage::write(offset, from);
}

void FaultyStorage::sync() {
  fail_if_planned(Operation::sync, 0);
  ForwardingStorage::sync();
}

void FaultyStorage::punch(std::uint64_t offset, std::uint64_t length) {
  fail_if_planned(Operation::punch, offset);
  ForwardingStorage::punch(offset, length);
}

void FaultyStorage::reserve(std::uint64_t offset, std::uint64_t length) {
  fail_if_planned(Operation::reserve, offset);
  ForwardingStorage::reserve(offset, length);
}

void FaultyStorage::resize(std::uint64_t size) {
  fail_if_planned(Operation::resize, 0);
  ForwardingStorage::resize(size);
}

std::optional<std::uint64_t> FaultyStorage::next_data(std::uint64_t offset) const {
  fail_if_planned(Operation::seek, 0);
  return ForwardingStorage::next_data(offset);
}

std::uint64_t FaultyStorage::next_hole(std::uint64_t offset) const {
  fail_if_planned(Operation::seek, 0);
  return ForwardingStorage::next_hole(offset);
}

std::optional<core::Mapping> FaultyStorage::map(std::uint64_t offset, std::size_t length) const {
  // A file that can't be mapped is no error but nothing: the caller reads instead.
  if (plan_->hit(Operation::map, offset)) return std::nullopt;
  return ForwardingStorage::map(offset, length);
}

}  // namespace cowfs::tests
