// SHA-256 (FIPS 180-4), with the processor's own instructions where it has them. The names of cached blocks
// (cache/block_key.h) and of images (media/image.h) are made with it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace weft {

using Digest = std::array<uint8_t, 32>;

class Sha256 {
 public:
  enum class Method : uint8_t { fastest, portable };  // the same digests; tests ask for the portable one by name
  explicit Sha256(Method method = Method::fastest);

  void update(const void* data, size_t bytes);
  // Ends the message; the object is not to be used afterwards.
  Digest digest();

 private:
  using State = std::array<uint32_t, 8>;
  // Takes in `blocks` blocks of 64 bytes.
  using Compress = void (*)(State& state, const uint8_t* data, size_t blocks);
  static void compress_portable(State& state, const uint8_t* data, size_t blocks);
  static void compress_by_instructions(State& state, const uint8_t* data, size_t blocks);

  Compress compress_;
  State state_{0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  std::array<uint8_t, 64> buffer_;
  size_t filled_ = 0;
  uint64_t total_bytes_ = 0;
};

Digest sha256(std::span<const std::byte> message);
// Two lower-case hexadecimal digits for each byte.
std::string hex_of(std::span<const uint8_t> bytes);

}  // namespace weft
