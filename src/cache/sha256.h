// SHA-256 (FIPS 180-4), portable. Names of cached blocks are made with it; see block_key.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weft {

class Sha256 {
 public:
  void update(const void* data, size_t bytes);
  // Ends the message; the object is not to be used afterwards. Words are big-endian values, as the standard prints
  // them.
  std::array<uint32_t, 8> digest();

 private:
  void compress(const uint8_t* block);

  std::array<uint32_t, 8> state_{0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  std::array<uint8_t, 64> buffer_;
  size_t filled_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace weft
