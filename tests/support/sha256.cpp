#include "tests/support/sha256.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <stdexcept>

namespace cowfs::tests {

struct Sha256::Context {
  EVP_MD_CTX* openssl = EVP_MD_CTX_new();
};

void Sha256::Free::operator()(Context* context) const {
  EVP_MD_CTX_free(context->openssl);
  delete context;
}

Sha256::Sha256() : context_(new Context) {
  if (EVP_DigestInit_ex(context_->openssl, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("no SHA-256");
  }
}

void Sha256::add(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(context_->openssl, bytes.data(), bytes.size());
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned length = 0;
  EVP_DigestFinal_ex(context_->openssl, digest.data(), &length);
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace cowfs::tests
