// Element types of tensors, and the 16- and 8-bit floats' conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace weft {

enum class DType : uint8_t { f32, bf16, f16, f8_e4m3, f64, i8, u8, i16, i32, i64, boolean };

constexpr int size_bytes(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16: return 2;
    default: return 1;
  }
}

const char* name(DType type);  // "float32", "bfloat16", ...

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_float(uint16_t bits);
float f8_e4m3_to_float(uint8_t bits);

}  // namespace weft
