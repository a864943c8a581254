// The base of storages that stand in front of another one.
#pragma once

#include <memory>
#include <utility>

#include "cowcore/storage.hpp"

namespace cowfs::tests {

/// Hands every call to another storage; a derived class overrides those that it wants to change.
class ForwardingStorage : public core::Storage {
 public:
  explicit ForwardingStorage(std::unique_ptr<core::Storage> inner) : inner_(std::move(inner)) {}

  [[nodiscard]] const std::string& name() const override { return inner_->name(); }
  [[nodiscard]] core::FileStatus status() const override { return inner_->status(); }
  [[nodiscard]] core::SpaceStatus space() const override { return inner_->space(); }
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const override {
    return inner_->read(offset, into);
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    inner_->write(offset, from);
  }
  void sync() override { inner_->sync(); }
  void punch(std::uint64_t offset, std::uint64_t length) override { inner_->punch(offset, length); }
  void reserve(std::uint64_t offset, std::uint64_t length) override {
    inner_->reserve(offset, length);
  }
  void resize(std::uint64_t size) override { inner_->resize(size); }
  [[nodiscard]] std::optional<std::uint64_t> next_data(std::uint64_t offset) const override {
    return inner_->next_data(offset);
  }
  [[nodiscard]] std::uint64_t next_hole(std::uint64_t offset) const override {
    return inner_->next_hole(offset);
  }
  void prefetch(std::uint64_t offset, std::uint64_t length) const override {
    inner_->prefetch(offset, length);
  }
  [[nodiscard]] std::optional<core::Mapping> map(std::uint64_t offset,
                                                 std::size_t length) const override {
    return inner_->map(offset, length);
  }
  void lock(core::LockKind kind) override { inner_->lock(kind); }

 private:
  std::unique_ptr<core::Storage> inner_;
};

}  // namespace cowfs::tests
