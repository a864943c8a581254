// Another process, for what a process can't do to itself: hold a lock in its own way.
#pragma once

#include <sys/types.h>

#include <functional>

#include "cowcore/file_descriptor.hpp"

namespace cowfs::tests {

/// A child that does `work` and then stays until this object goes. The constructor returns when
/// `work` has. Only for tests that have no other threads.
class ForkedProcess {
 public:
  /// `work` tells whether it succeeded; an exception is a failure.
  explicit ForkedProcess(const std::function<bool()>& work);
  ForkedProcess(const ForkedProcess&) = delete;
  ForkedProcess& operator=(const ForkedProcess&) = delete;
  ~ForkedProcess();

  [[nodiscard]] bool succeeded() const { return succeeded_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  core::FileDescriptor stay_;  // the child ends when this is closed
  bool succeeded_ = false;
};

/// Takes a classic lock on the whole file, as UML does: it belongs to the process, not to the
/// descriptor. False if somebody else holds one that conflicts. The descriptor stays open.
bool take_process_lock(const char* path, short type);

/// Takes away from this thread what lets root ignore the permission bits of files, until it goes.
class WithoutFilePrivileges {
 public:
  WithoutFilePrivileges();
  WithoutFilePrivileges(const WithoutFilePrivileges&) = delete;
  WithoutFilePrivileges& operator=(const WithoutFilePrivileges&) = delete;
  ~WithoutFilePrivileges();

 private:
  unsigned effective_before_[2] = {};
};

}  // namespace cowfs::tests
