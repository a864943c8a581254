// The pending bits in a file of the run directory: they outlive the process, not the power.
//
// A write is acknowledged when its data is in the kernel's page cache and its bits are in this
// file, which is mapped shared. So a daemon that is killed loses nothing: whoever opens the COW
// next finds the bits here and makes them durable (left_behind.hpp).
//
// The bits are only right for the very file, and the very content, that they were made for. So the
// file carries the boot's id, the COW's identity and header, and the times of the last writes.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cowcore/cow_description.hpp"
#include "cowcore/file_descriptor.hpp"
#include "cowcore/pending_format.hpp"
#include "cowcore/pending_store.hpp"
#include "cowcore/posix_storage.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::core {

/// The directory for pending files: /run/cowfs for root, $XDG_RUNTIME_DIR/cowfs for others. Nothing
/// if an ordinary user has none.
[[nodiscard]] std::optional<boost::filesystem::path> run_directory();

class PendingFile final : public PendingStore {
 public:
  /// What a new worker does about a file that is there.
  enum class Existing {
    replace,  ///< the file's bits have been dealt with
    /// Its bits are those of the worker before, which has ended; the COW was locked all the time.
    adopt,
  };

  /// Makes, or takes over, the file for an open COW. Makes the directory where needed.
  /// Throws std::system_error or Error, with the reason why there can be none.
  PendingFile(const boost::filesystem::path& directory, const PosixStorage& cow,
              const CowDescription& description, Existing existing);

  [[nodiscard]] std::atomic<std::uint64_t>* words() override;
  void reserve(std::size_t first, std::size_t count) override;
  void for_each_used(const std::function<void(std::size_t, std::size_t)>& function) override;
  void note_failure() override;
  [[nodiscard]] bool has_failed() const override;

  /// To be called around each change of the COW: the times tell later whether somebody else wrote.
  void note_write_begins() noexcept;
  void note_write_ends() noexcept;

  /// Takes the file away: all bits are on disk.
  void remove();

 private:
  void make(int folder, const PosixStorage& cow, const CowDescription& description);
  void take_over(int folder, const PosixStorage& cow);
  void map_file();
  [[nodiscard]] pending::Header& header() const;

  struct Unmap {
    std::size_t length;
    void operator()(std::byte* data) const;
  };

  boost::filesystem::path directory_;
  std::string name_;
  FileDescriptor fd_;
  std::size_t words_;
  std::unique_ptr<std::byte, Unmap> data_;
};

/// A COW whose changes are noted in a pending file, which must outlive it.
[[nodiscard]] std::unique_ptr<Storage> watch_writes(std::unique_ptr<Storage> cow,
                                                    PendingFile& pending);

}  // namespace cowfs::core
