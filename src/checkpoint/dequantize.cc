// The block formats are those of ggml (ggml-quants.c, block_q4_0 and following). All blocks are little-endian and unaligned; f16 scales
// are read byte-wise. A "super-block" of 256 values has f16 scales for the whole and 4- or 6-bit scales per 16 or 32 values. The loops are written so
// that the compiler can vectorise them: fixed trip counts, no branches on data.
#include "checkpoint/dequantize.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace weft {
namespace {

using Byte = unsigned char;

uint16_t load_u16(const Byte* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }

// Branch-free: the exponent is moved by a multiplication, which also normalises subnormals; infinities and NaN get their exponent set.
inline float half_to_float(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | (static_cast<uint32_t>(bits & 0x8000u) << 16));
}

float load_half(const Byte* p) { return half_to_float(load_u16(p)); }

template <float (*convert)(uint8_t)>
const std::array<float, 256>& byte_table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (int i = 0; i < 256; ++i) values[i] = convert(static_cast<uint8_t>(i));
    return values;
  }();
  return table;
}

float e5m2_to_float(uint8_t bits) { return half_to_float(static_cast<uint16_t>(bits << 8)); }

// A power of two; 255 is NaN and 0 is the subnormal 2^-127.
float e8m0_to_float(uint8_t bits) {
  if (bits == 0) return 0x1p-127f;
  if (bits == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 23);
}

void from_table(const std::array<float, 256>& table, const Byte* source, int64_t values, float* out) {
  for (int64_t i = 0; i < values; ++i) out[i] = table[source[i]];
}

void from_f16(const Byte* source, int64_t values, float* out) {
  for (int64_t i = 0; i < values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = half_to_float(bits);
  }
}

void from_bf16(const Byte* source, int64_t values, float* out) {
  for (int64_t i = 0; i < values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = bf16_to_float(bits);
  }
}

void from_f64(const Byte* source, int64_t values, float* out) {
  for (int64_t i = 0; i < values; ++i) {
    double value;
    std::memcpy(&value, source + 8 * i, 8);
    out[i] = static_cast<float>(value);
  }
}

// {f16 d, 16 bytes of nibbles}: value = (q - 8) * d; low nibbles are the first 16 values.
void block_q4_0(const Byte* b, float* out) {
  const float d = load_half(b);
  const Byte* q = b + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((q[j] & 15) - 8) * d;
    out[j + 16] = static_cast<float>((q[j] >> 4) - 8) * d;
  }
}

// {f16 d, f16 m, nibbles}: value = q * d + m.
void block_q4_1(const Byte* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  const Byte* q = b + 4;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(q[j] & 15) * d + m;
    out[j + 16] = static_cast<float>(q[j] >> 4) * d + m;
  }
}

// The fifth bits of 32 values as 0 or 16.
inline int fifth_bit(uint32_t high, int j) { return static_cast<int>((high >> j) & 1u) << 4; }

uint32_t load_u32(const Byte* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

// {f16 d, u32 fifth bits, nibbles}: value = (q - 16) * d.
void block_q5_0(const Byte* b, float* out) {
  const float d = load_half(b);
  const uint32_t high = load_u32(b + 2);
  const Byte* q = b + 6;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(((q[j] & 15) | fifth_bit(high, j)) - 16) * d;
    out[j + 16] = static_cast<float>(((q[j] >> 4) | fifth_bit(high, j + 16)) - 16) * d;
  }
}

// {f16 d, f16 m, u32 fifth bits, nibbles}: value = q * d + m.
void block_q5_1(const Byte* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  const uint32_t high = load_u32(b + 4);
  const Byte* q = b + 8;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((q[j] & 15) | fifth_bit(high, j)) * d + m;
    out[j + 16] = static_cast<float>((q[j] >> 4) | fifth_bit(high, j + 16)) * d + m;
  }
}

// {f16 d, 32 int8}: value = q * d.
void block_q8_0(const Byte* b, float* out) {
  const float d = load_half(b);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(b[2 + j])) * d;
}

// {16 bytes: 4-bit scale and minimum per 16 values, 64 bytes of 2-bit values, f16 d, f16 dmin}. Each run of 32 bytes holds 128 values:
// bits 0-1 the first 32, bits 2-3 the next.
void block_q2_k(const Byte* b, float* out) {
  const Byte *scales = b, *q = b + 16;
  const float d = load_half(b + 80), dmin = load_half(b + 82);
  for (int half = 0; half < 2; ++half, q += 32) {
    for (int part = 0; part < 4; ++part) {
      for (int side = 0; side < 2; ++side, ++scales, out += 16) {
        const float scale = d * static_cast<float>(*scales & 15), minimum = dmin * static_cast<float>(*scales >> 4);
        for (int l = 0; l < 16; ++l) out[l] = scale * static_cast<float>((q[16 * side + l] >> (2 * part)) & 3) - minimum;
      }
    }
  }
}

// {32 bytes: third bits, 64 bytes: low two bits as in q2_k, 12 bytes: 6-bit scales of 16 values, f16 d}. A third bit of 0 subtracts 4.
void block_q3_k(const Byte* b, float* out) {
  const Byte *high = b, *q = b + 32, *packed = b + 96;
  const float d = load_half(b + 108);
  int scales[16];
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    scales[i] = (low | (((packed[8 + i % 4] >> (2 * (i / 4))) & 3) << 4)) - 32;
  }
  int run = 0;
  for (int half = 0; half < 2; ++half, q += 32) {
    for (int part = 0; part < 4; ++part) {
      const int bit = 4 * half + part;
      for (int side = 0; side < 2; ++side, ++run, out += 16) {
        const float scale = d * static_cast<float>(scales[run]);
        for (int l = 0; l < 16; ++l) {
          const int low = (q[16 * side + l] >> (2 * part)) & 3, missing = ((~high[16 * side + l] >> bit) & 1) << 2;
          out[l] = scale * static_cast<float>(low - missing);
        }
      }
    }
  }
}

struct ScaleMin {
  float scale, minimum;
};

// The 6-bit scale and minimum of run j (0..7) from the 12 packed bytes of q4_k and q5_k.
ScaleMin scale_min(const Byte* p, int j, float d, float dmin) {
  const int scale = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | ((p[j - 4] >> 6) << 4);
  const int minimum = j < 4 ? p[j + 4] & 63 : (p[j + 4] >> 4) | ((p[j] >> 6) << 4);
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

// {f16 d, f16 dmin, 12 bytes of scales, 128 bytes of nibbles}: each run of 32 bytes holds 64 values, low nibbles first.
void block_q4_k(const Byte* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const Byte *scales = b + 4, *q = b + 16;
  for (int run = 0; run < 8; run += 2, q += 32, out += 64) {
    const ScaleMin low = scale_min(scales, run, d, dmin), high = scale_min(scales, run + 1, d, dmin);
    for (int l = 0; l < 32; ++l) out[l] = low.scale * static_cast<float>(q[l] & 15) - low.minimum;
    for (int l = 0; l < 32; ++l) out[32 + l] = high.scale * static_cast<float>(q[l] >> 4) - high.minimum;
  }
}

// As q4_k with 32 bytes of fifth bits behind the scales; bit `run` of byte l belongs to value l of that run.
void block_q5_k(const Byte* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const Byte *scales = b + 4, *fifth = b + 16, *q = b + 48;
  for (int run = 0; run < 8; run += 2, q += 32, out += 64) {
    const ScaleMin low = scale_min(scales, run, d, dmin), high = scale_min(scales, run + 1, d, dmin);
    for (int l = 0; l < 32; ++l)
      out[l] = low.scale * static_cast<float>((q[l] & 15) + (((fifth[l] >> run) & 1) << 4)) - low.minimum;
    for (int l = 0; l < 32; ++l)
      out[32 + l] = high.scale * static_cast<float>((q[l] >> 4) + (((fifth[l] >> (run + 1)) & 1) << 4)) - high.minimum;
  }
}

// {128 bytes: low nibbles, 64 bytes: two high bits, 16 int8 scales of 16 values, f16 d}: value = d * scale * (q - 32).
void block_q6_k(const Byte* b, float* out) {
  const Byte *low = b, *high = b + 128, *scales = b + 192;
  const float d = load_half(b + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32, scales += 8, out += 128) {
    for (int part = 0; part < 4; ++part) {
      const Byte* nibbles = low + 32 * (part & 1);
      const int nibble_shift = 4 * (part >> 1), high_shift = 2 * part;
      for (int side = 0; side < 2; ++side) {
        const float scale = d * static_cast<float>(static_cast<int8_t>(scales[2 * part + side]));
        for (int l = 16 * side; l < 16 * side + 16; ++l) {
          const int q = ((nibbles[l] >> nibble_shift) & 15) | (((high[l] >> high_shift) & 3) << 4);
          out[32 * part + l] = scale * static_cast<float>(q - 32);
        }
      }
    }
  }
}

template <void (*block)(const Byte*, float*)>
void each_block(StorageType type, const Byte* source, int64_t values, float* out) {
  const StorageLayout shape = layout(type);
  for (int64_t done = 0; done < values; done += shape.block_values, source += shape.block_bytes) block(source, out + done);
}

}  // namespace

void dequantize(StorageType type, const std::byte* source, int64_t values, float* out) {
  const auto* bytes = reinterpret_cast<const Byte*>(source);
  if (values == 0) return;
  switch (type) {
    case StorageType::f32: std::memcpy(out, bytes, static_cast<size_t>(values) * 4); return;
    case StorageType::f16: return from_f16(bytes, values, out);
    case StorageType::bf16: return from_bf16(bytes, values, out);
    case StorageType::f64: return from_f64(bytes, values, out);
    case StorageType::f8_e4m3: return from_table(byte_table<f8_e4m3_to_float>(), bytes, values, out);
    case StorageType::f8_e5m2: return from_table(byte_table<e5m2_to_float>(), bytes, values, out);
    case StorageType::f8_e8m0: return from_table(byte_table<e8m0_to_float>(), bytes, values, out);
    case StorageType::q4_0: return each_block<block_q4_0>(type, bytes, values, out);
    case StorageType::q4_1: return each_block<block_q4_1>(type, bytes, values, out);
    case StorageType::q5_0: return each_block<block_q5_0>(type, bytes, values, out);
    case StorageType::q5_1: return each_block<block_q5_1>(type, bytes, values, out);
    case StorageType::q8_0: return each_block<block_q8_0>(type, bytes, values, out);
    case StorageType::q2_k: return each_block<block_q2_k>(type, bytes, values, out);
    case StorageType::q3_k: return each_block<block_q3_k>(type, bytes, values, out);
    case StorageType::q4_k: return each_block<block_q4_k>(type, bytes, values, out);
    case StorageType::q5_k: return each_block<block_q5_k>(type, bytes, values, out);
    case StorageType::q6_k: return each_block<block_q6_k>(type, bytes, values, out);
    default: WEFT_CHECK(false) << "no float values in " << name(type);
  }
}

}  // namespace weft
