// Checksums of large images.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace cowfs::tests {

/// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  void add(std::span<const std::byte> bytes);
  /// As 64 hexadecimal digits. Nothing can be added any more.
  [[nodiscard]] std::string finish();

 private:
  struct Context;
  struct Free {
    void operator()(Context* context) const;
  };
  std::unique_ptr<Context, Free> context_;
};

}  // namespace cowfs::tests
