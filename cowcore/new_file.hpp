// A file that appears under its name when it is whole, or not at all.
#pragma once

#include <sys/types.h>

#include <boost/filesystem/path.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cowcore/posix_storage.hpp"

namespace cowfs::core {

enum class IfExists {
  refuse,
  replace,  ///< what may be replaced, the function says that takes it
};

enum class Naming {
  when_published,
  temporary,  ///< the file has a path before, for other programs
};

/// A file without a name, where the file system has such: then a process that is killed leaves
/// nothing. Elsewhere a file with a temporary name beside the wanted one.
class NewFile {
 public:
  /// In the directory of `wanted`, with that mode less the umask. Throws Error if there is no such
  /// directory, and std::system_error.
  NewFile(const boost::filesystem::path& wanted, mode_t mode,
          Naming naming = Naming::when_published);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  /// Removes the file unless it was published.
  ~NewFile();

  [[nodiscard]] PosixStorage& file() { return *file_; }
  /// Where the file is until it is published; empty if it has no name.
  [[nodiscard]] const boost::filesystem::path& temporary_path() const { return temporary_; }

  /// Gives the file owner and mode of another one, the owner only as far as we may.
  void imitate(const FileStatus& status);

  /// Gives the file its name, and syncs the directory. The file's content must have been synced.
  /// Throws std::system_error; EEXIST if there is such a file and it is not to be replaced.
  void publish(IfExists if_exists);

 private:
  void make_named(mode_t mode);
  void link_to(const boost::filesystem::path& name);

  boost::filesystem::path wanted_;
  boost::filesystem::path temporary_;  ///< empty: it has no name
  std::unique_ptr<PosixStorage> file_;
};

/// Returns when the entries of a directory survive a power loss.
void sync_directory(const boost::filesystem::path& directory);

/// A file that an operation reads, and must not replace.
struct InputFile {
  FileIdentity identity;
  std::string what;  ///< "the COW", "the backing"
};

/// Where an output goes.
struct OutputPlace {
  boost::filesystem::path file;  ///< where symbolic links lead
  /// The file that is there now, if any: locked, so that nobody starts to use it.
  std::unique_ptr<PosixStorage> replaced;
};

/// Finds out whether an output may be made. Throws Error if it is one of the inputs by whatever
/// name, if it exists and is not to be replaced, and if it is anything but a regular file; Busy if
/// it is in use; std::system_error.
[[nodiscard]] OutputPlace choose_output(const boost::filesystem::path& wanted, IfExists if_exists,
                                        const std::vector<InputFile>& inputs);

}  // namespace cowfs::core
