// The pending bits in a file of the run directory: they outlive the process, not the power.
//
// A write is acknowledged when its data is in the kernel's page cache and its bits are in this
// file, which is mapped shared. So a daemon that is killed loses nothing: whoever opens the COW
// next finds the bits here, makes them durable in the order of a flush, and removes the file.
//
// The bits are only right for the very file, and the very content, that they were made for. So the
// file carries the boot's id, the COW's identity and header, and the times of the last writes. A
// COW that was written after the daemon's last write was written by somebody else (a UML, say) who
// never saw these bits: to apply them then would bring old writes back. Such a COW is refused until
// the user chooses.
#pragma once

#include <boost/filesystem/path.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cowcore/cow_description.hpp"
#include "cowcore/file_descriptor.hpp"
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
    adopt,    ///< its bits are those of the worker before, and the COW was locked all the time
  };

  /// Makes, or takes over, the file for an open COW. Makes the directory where needed.
  /// Throws std::system_error or Error, with the reason why there can be none.
  PendingFile(const boost::filesystem::path& directory, const PosixStorage& cow,
              const CowDescription& description, Existing existing);
  ~PendingFile() override;

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
  struct Header;

  [[nodiscard]] Header& header() const;

  boost::filesystem::path directory_;
  std::string name_;
  FileDescriptor fd_;
  void* data_ = nullptr;
  std::size_t length_ = 0;
};

/// A COW whose changes are noted in a pending file, which must outlive it.
[[nodiscard]] std::unique_ptr<Storage> watch_writes(std::unique_ptr<Storage> cow,
                                                    PendingFile& pending);

/// What a killed daemon has left for a COW.
struct LeftBehind {
  enum class State {
    nothing,
    applicable,  ///< bits that are still to be put on disk
    stale,       ///< of another boot, or another file: worth nothing
    conflict,    ///< the COW was written by somebody else since
    failed,      ///< a sync had failed: data that the bits point at may be lost
    damaged,     ///< no pending file, or not whole
  };
  State state = State::nothing;
  std::string why;          ///< for a person; empty if nothing is wrong
  SectorCount sectors = 0;  ///< bits that are pending
  boost::filesystem::path file;
};

/// Looks for what was left behind for a COW that nobody uses. Changes nothing.
[[nodiscard]] LeftBehind find_left_behind(const boost::filesystem::path& directory,
                                          const PosixStorage& cow,
                                          const CowDescription& description);

/// Puts the pending bits on disk (data first, then bits, both synced) and removes the file. The COW
/// is open for writing and locked. Applies whatever state it is in: the caller has decided.
void apply_left_behind(const LeftBehind& left, PosixStorage& cow,
                       const CowDescription& description);

void drop_left_behind(const LeftBehind& left);

/// What every open of a COW under its lock does: applies what can be applied and drops what is
/// stale; returns a line for the user, or nothing. Throws Error for what the user has to decide,
/// and for what a read-only open can't apply.
[[nodiscard]] std::string settle_left_behind(const boost::filesystem::path& directory,
                                             PosixStorage& cow, const CowDescription& description,
                                             Access access);

}  // namespace cowfs::core
