#include "checkpoint/store_floats.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace weft {

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65520 on
  uint32_t mantissa = magnitude, shift = 13;
  if (magnitude < 0x38800000u) {  // below 2^-14: steps of 2^-24
    const uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;  // below 2^-25
    mantissa = (magnitude & 0x7fffffu) | 0x800000u, shift = 126 - exponent;
  } else {
    mantissa -= 112u << 23;
  }
  const uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1);
  uint32_t result = mantissa >> shift;
  if (rest > half || (rest == half && (result & 1u) != 0)) ++result;
  return static_cast<uint16_t>(sign | result);
}

void store_floats(StorageType type, std::span<const float> values, std::byte* out) {
  if (type == StorageType::f32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return;
  }
  WEFT_CHECK(type == StorageType::f16 || type == StorageType::bf16) << name(type);
  for (const float value : values) {
    const uint16_t bits = type == StorageType::f16 ? float_to_f16(value) : float_to_bf16(value);
    std::memcpy(out, &bits, sizeof bits);
    out += sizeof bits;
  }
}

bool is_stored_exactly(StorageType type, float value) {
  const float read = type == StorageType::f16    ? f16_to_float(float_to_f16(value))
                     : type == StorageType::bf16 ? bf16_to_float(float_to_bf16(value))
                                                 : value;
  return std::bit_cast<uint32_t>(read) == std::bit_cast<uint32_t>(value);
}

}  // namespace weft
