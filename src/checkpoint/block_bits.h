// Reading numbers out of the bytes of a stored block.
//
// Loading is bound by the loops that use these, so they are written for the compiler to vectorise: fixed trip counts,
// no branches on data, and `__restrict`, since bytes could alias anything. Internal linkage.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace weft {
namespace {

using Byte = unsigned char;

#define WEFT_INLINE [[gnu::always_inline]] inline
// Before a loop: it is not to be unrolled before it is vectorised, since what follows unrolling finds only parts of it.
#define WEFT_ROLLED _Pragma("GCC unroll 1")

WEFT_INLINE uint16_t load_u16(const Byte* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }

// The bits of one or the other, by a mask: a conditional would keep loops from being vectorised, since a product may
// trap.
WEFT_INLINE uint32_t select(bool first, float a, float b) {
  const uint32_t mask = -static_cast<uint32_t>(first);
  return (std::bit_cast<uint32_t>(a) & mask) | (std::bit_cast<uint32_t>(b) & ~mask);
}

// The exponent is moved by an addition; subnormals are whole numbers of 2^-24; infinities and NaN get their exponent
// set.
WEFT_INLINE float half_to_float(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7fffu;
  const float normal = std::bit_cast<float>((magnitude << 13) + (112u << 23));
  const float subnormal = static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24f;
  const uint32_t special = -static_cast<uint32_t>(magnitude >= 0x7c00u) & 0x7f800000u;
  return std::bit_cast<float>(select(magnitude < 0x400u, subnormal, normal) | special |
                              (static_cast<uint32_t>(bits & 0x8000u) << 16));
}

WEFT_INLINE float load_half(const Byte* p) { return half_to_float(load_u16(p)); }

WEFT_INLINE uint32_t load_u32(const Byte* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

}  // namespace
}  // namespace weft
