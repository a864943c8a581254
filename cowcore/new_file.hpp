// Making a file that appears under its name only when it is whole.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>

#include "cowcore/posix_storage.hpp"

namespace cowfs::core {

enum class IfExists {
  refuse,
  replace,  ///< only a regular file that nobody uses: anything else is refused
};

/// An empty file beside the one that is wanted, under another name. It is removed with this object,
/// unless `commit` came before: a failure leaves nothing, and what is there already is there until
/// then.
class NewFile {
 public:
  /// Holds an exclusive lock on the file that is to be replaced, so that nobody starts to use it.
  /// A symbolic link to it is followed. Throws Error, Busy, std::system_error.
  NewFile(const boost::filesystem::path& wanted, IfExists if_exists);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  /// Errors name the file that is wanted.
  [[nodiscard]] PosixStorage& storage() { return *storage_; }
  /// Where it is until `commit`.
  [[nodiscard]] const boost::filesystem::path& temporary_path() const { return temporary_; }

  /// The file that is to be replaced; null if there is none.
  [[nodiscard]] const PosixStorage* replaced() const { return replaced_.get(); }

  /// Syncs the file, gives it its name and syncs the directory.
  void commit();

 private:
  boost::filesystem::path wanted_;  // as given
  IfExists if_exists_;
  std::unique_ptr<PosixStorage> replaced_;
  boost::filesystem::path target_;
  boost::filesystem::path temporary_;  // empty once it got its name
  std::unique_ptr<PosixStorage> storage_;
};

}  // namespace cowfs::core
