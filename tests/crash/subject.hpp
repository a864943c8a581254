// What a power-cut test writes through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "cowcore/cow_image.hpp"
#include "cowcore/joined_calls.hpp"
#include "cowcore/sector_map.hpp"
#include "cowcore/storage.hpp"

namespace cowfs::tests {

/// Thread safety: all functions may be called at once.
class Subject {
 public:
  Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  virtual ~Subject() = default;

  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;
  virtual void zero(std::uint64_t offset, std::uint64_t length) = 0;
  virtual void flush() = 0;
};

/// The real thing.
class ImageSubject final : public Subject {
 public:
  explicit ImageSubject(std::unique_ptr<core::CowImage> image) : image_(std::move(image)) {}

  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    image_->write(offset, from);
  }
  void zero(std::uint64_t offset, std::uint64_t length) override { image_->zero(offset, length); }
  void flush() override { image_->flush(); }

 private:
  std::unique_ptr<core::CowImage> image_;
};

/// What is wrong with a FlushDriver.
enum class Mutation {
  none,
  bitmap_before_data_sync,  ///< the first sync and the bitmap's write have changed places
  words_after_sync,         ///< the words are taken after the first sync
  no_first_sync,
  no_second_sync,
  bit_before_data,  ///< a bit is set before its data is written
};

/// The least that does what CowImage does, for whole sectors, on the same SectorMap: so small that
/// a mistake can be put into it on purpose.
class FlushDriver final : public Subject {
 public:
  FlushDriver(std::unique_ptr<core::Storage> cow, const core::CowLayout& layout, Mutation mutation)
      : cow_(std::move(cow)), layout_(layout), mutation_(mutation), map_(*cow_, layout) {}

  void write(std::uint64_t offset, std::span<const std::byte> from) override;
  void zero(std::uint64_t offset, std::uint64_t length) override;
  void flush() override;

 private:
  template <typename Change>
  void change(std::uint64_t offset, std::uint64_t length, Change&& change);
  void flush_once();

  std::unique_ptr<core::Storage> cow_;
  core::CowLayout layout_;
  Mutation mutation_;
  core::SectorMap map_;
  core::JoinedCalls flushes_;
  core::PendingWords taken_;
};

}  // namespace cowfs::tests
