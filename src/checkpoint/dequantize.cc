// The block formats are those of ggml (ggml-quants.c, block_q4_0 and following). All blocks are little-endian and
// unaligned; f16 scales are read byte-wise. A "super-block" of 256 values has f16 scales for the whole and 4- or 6-bit
// scales per 16 or 32 values.
//
// Everything is compiled twice, for the base instruction set and for AVX2, by inlining it all into two functions;
// without FMA both give the same bits.
#include "checkpoint/dequantize.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "checkpoint/block_bits.h"
#include "checkpoint/code_blocks.h"

namespace weft {
namespace {

// The same for e4m3, whose only special value is NaN.
WEFT_INLINE float e4m3_to_float(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const float normal = std::bit_cast<float>((magnitude << 20) + (120u << 23));
  const float subnormal = static_cast<float>(static_cast<int>(magnitude)) * 0x1p-9f;
  const uint32_t special = -static_cast<uint32_t>(magnitude == 0x7fu) & 0x7fc00000u;
  return std::bit_cast<float>(select(magnitude < 8, subnormal, normal) | special |
                              (static_cast<uint32_t>(bits & 0x80u) << 24));
}

// A power of two; 255 is NaN and 0 is the subnormal 2^-127.
WEFT_INLINE float e8m0_to_float(uint8_t bits) {
  return bits == 255 ? std::bit_cast<float>(0x7fc00000u)
                     : std::bit_cast<float>(bits == 0 ? 0x00400000u : static_cast<uint32_t>(bits) << 23);
}

WEFT_INLINE void from_e4m3(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) out[i] = e4m3_to_float(source[i]);
}

WEFT_INLINE void from_e5m2(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) out[i] = half_to_float(static_cast<uint16_t>(source[i] << 8));
}

WEFT_INLINE void from_e8m0(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) out[i] = e8m0_to_float(source[i]);
}

WEFT_INLINE void from_f16(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = half_to_float(bits);
  }
}

WEFT_INLINE void from_bf16(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = bf16_to_float(bits);
  }
}

WEFT_INLINE void from_f64(const Byte* __restrict source, int64_t values, float* __restrict out) {
  for (int64_t i = 0; i < values; ++i) {
    double value;
    std::memcpy(&value, source + 8 * i, 8);
    out[i] = static_cast<float>(value);
  }
}

// {f16 d, 16 bytes of nibbles}: value = (q - 8) * d; low nibbles are the first 16 values.
WEFT_INLINE void block_q4_0(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b);
  const Byte* q = b + 2;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j] = static_cast<float>((q[j] & 15) - 8) * d;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>((q[j] >> 4) - 8) * d;
}

// {f16 d, f16 m, nibbles}: value = q * d + m.
WEFT_INLINE void block_q4_1(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b), m = load_half(b + 2);
  const Byte* q = b + 4;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j] = static_cast<float>(q[j] & 15) * d + m;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>(q[j] >> 4) * d + m;
}

// The fifth bits of 32 values as 0 or 16.
WEFT_INLINE int fifth_bit(uint32_t high, int j) { return static_cast<int>((high >> j) & 1u) << 4; }

// {f16 d, u32 fifth bits, nibbles}: value = (q - 16) * d.
WEFT_INLINE void block_q5_0(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b);
  const uint32_t high = load_u32(b + 2);
  const Byte* q = b + 6;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j] = static_cast<float>(((q[j] & 15) | fifth_bit(high, j)) - 16) * d;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j + 16] =
      static_cast<float>(((q[j] >> 4) | fifth_bit(high, j + 16)) - 16) * d;
}

// {f16 d, f16 m, u32 fifth bits, nibbles}: value = q * d + m.
WEFT_INLINE void block_q5_1(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b), m = load_half(b + 2);
  const uint32_t high = load_u32(b + 4);
  const Byte* q = b + 8;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j] = static_cast<float>((q[j] & 15) | fifth_bit(high, j)) * d + m;
  WEFT_ROLLED for (int j = 0; j < 16; ++j) out[j + 16] =
      static_cast<float>((q[j] >> 4) | fifth_bit(high, j + 16)) * d + m;
}

// {f16 d, 32 int8}: value = q * d.
WEFT_INLINE void block_q8_0(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b);
  const Byte* q = b + 2;
  WEFT_ROLLED for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(q[j])) * d;
}

// {16 bytes: 4-bit scale and minimum per 16 values, 64 bytes of 2-bit values, f16 d, f16 dmin}. Each run of 32 bytes
// holds 128 values: bits 0-1 the first 32, bits 2-3 the next.
WEFT_INLINE void block_q2_k(const Byte* __restrict b, float* __restrict out) {
  const Byte* scales = b;
  const float d = load_half(b + 80), dmin = load_half(b + 82);
  int run = 0;
  for (int half = 0; half < 2; ++half) {
    const Byte* q = b + 16 + 32 * half;
    for (int part = 0; part < 4; ++part) {
      for (int side = 0; side < 2; ++side, ++run, out += 16) {
        const float scale = d * static_cast<float>(scales[run] & 15),
                    minimum = dmin * static_cast<float>(scales[run] >> 4);
        WEFT_ROLLED for (int l = 0; l < 16; ++l) out[l] =
            scale * static_cast<float>((q[16 * side + l] >> (2 * part)) & 3) - minimum;
      }
    }
  }
}

// {32 bytes: third bits, 64 bytes: low two bits as in q2_k, 12 bytes: 6-bit scales of 16 values, f16 d}. A third bit of
// 0 subtracts 4.
WEFT_INLINE void block_q3_k(const Byte* __restrict b, float* __restrict out) {
  const Byte* high = b;
  const Byte* packed = b + 96;
  const float d = load_half(b + 108);
  int scales[16];
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    scales[i] = (low | (((packed[8 + i % 4] >> (2 * (i / 4))) & 3) << 4)) - 32;
  }
  int run = 0;
  for (int half = 0; half < 2; ++half) {
    const Byte* q = b + 32 + 32 * half;
    for (int part = 0; part < 4; ++part) {
      const int bit = 4 * half + part;
      for (int side = 0; side < 2; ++side, ++run, out += 16) {
        const float scale = d * static_cast<float>(scales[run]);
        WEFT_ROLLED for (int l = 0; l < 16; ++l) {
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
WEFT_INLINE ScaleMin scale_min(const Byte* p, int j, float d, float dmin) {
  const int scale = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | ((p[j - 4] >> 6) << 4);
  const int minimum = j < 4 ? p[j + 4] & 63 : (p[j + 4] >> 4) | ((p[j] >> 6) << 4);
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

// {f16 d, f16 dmin, 12 bytes of scales, 128 bytes of nibbles}: each run of 32 bytes holds 64 values, low nibbles first.
WEFT_INLINE void block_q4_k(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const Byte* scales = b + 4;
  for (int run = 0; run < 8; run += 2, out += 64) {
    const Byte* q = b + 16 + 16 * run;
    const ScaleMin low = scale_min(scales, run, d, dmin), high = scale_min(scales, run + 1, d, dmin);
    WEFT_ROLLED for (int l = 0; l < 32; ++l) out[l] = low.scale * static_cast<float>(q[l] & 15) - low.minimum;
    WEFT_ROLLED for (int l = 0; l < 32; ++l) out[32 + l] = high.scale * static_cast<float>(q[l] >> 4) - high.minimum;
  }
}

// As q4_k with 32 bytes of fifth bits behind the scales; bit `run` of byte l belongs to value l of that run.
WEFT_INLINE void block_q5_k(const Byte* __restrict b, float* __restrict out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const Byte* scales = b + 4;
  const Byte* fifth = b + 16;
  for (int run = 0; run < 8; run += 2, out += 64) {
    const Byte* q = b + 48 + 16 * run;
    const ScaleMin low = scale_min(scales, run, d, dmin), high = scale_min(scales, run + 1, d, dmin);
    WEFT_ROLLED for (int l = 0; l < 32; ++l) out[l] =
        low.scale * static_cast<float>((q[l] & 15) + (((fifth[l] >> run) & 1) << 4)) - low.minimum;
    WEFT_ROLLED for (int l = 0; l < 32; ++l) out[32 + l] =
        high.scale * static_cast<float>((q[l] >> 4) + (((fifth[l] >> (run + 1)) & 1) << 4)) - high.minimum;
  }
}

// {128 bytes: low nibbles, 64 bytes: two high bits, 16 int8 scales of 16 values, f16 d}: value = d * scale * (q - 32).
WEFT_INLINE void block_q6_k(const Byte* __restrict b, float* __restrict out) {
  const Byte* scales = b + 192;
  const float d = load_half(b + 208);
  for (int half = 0; half < 2; ++half) {
    const Byte* low = b + 64 * half;
    const Byte* high = b + 128 + 32 * half;
    for (int part = 0; part < 4; ++part) {
      const int first = 32 * (part & 1), nibble_shift = 4 * (part >> 1), high_shift = 2 * part;
      for (int side = 0; side < 2; ++side, out += 16) {
        const float scale = d * static_cast<float>(static_cast<int8_t>(scales[8 * half + 2 * part + side]));
        WEFT_ROLLED for (int l = 0; l < 16; ++l) {
          const int at = 16 * side + l,
                    q = ((low[first + at] >> nibble_shift) & 15) | (((high[at] >> high_shift) & 3) << 4);
          out[l] = scale * static_cast<float>(q - 32);
        }
      }
    }
  }
}

template <void (*block)(const Byte*, float*)>
WEFT_INLINE void each_block(StorageType type, const Byte* source, int64_t values, float* out) {
  const StorageLayout shape = layout(type);
  for (int64_t done = 0; done < values; done += shape.block_values, source += shape.block_bytes)
    block(source, out + done);
}

template <void (*codes_of)(const Byte*, int8_t*, float*), int group>
WEFT_INLINE void each_code_block(StorageType type, const Byte* source, int64_t values, float* out) {
  const StorageLayout shape = layout(type);
  int8_t codes[kMostBlockValues] = {};
  float scales[kMostBlockGroups] = {};
  for (int64_t done = 0; done < values; done += shape.block_values, source += shape.block_bytes) {
    codes_of(source, codes, scales);
    for (int first = 0; first < shape.block_values; first += group)
      WEFT_ROLLED for (int j = 0; j < group; ++j) out[done + first + j] =
          static_cast<float>(codes[first + j]) * scales[first / group];
  }
}

WEFT_INLINE void convert(StorageType type, const Byte* bytes, int64_t values, float* out) {
  switch (type) {
    case StorageType::f32: std::memcpy(out, bytes, static_cast<size_t>(values) * 4); return;
    case StorageType::f16: return from_f16(bytes, values, out);
    case StorageType::bf16: return from_bf16(bytes, values, out);
    case StorageType::f64: return from_f64(bytes, values, out);
    case StorageType::f8_e4m3: return from_e4m3(bytes, values, out);
    case StorageType::f8_e5m2: return from_e5m2(bytes, values, out);
    case StorageType::f8_e8m0: return from_e8m0(bytes, values, out);
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
    default: break;
  }
  const bool known = with_codes(
      type, [&]<void (*codes_of)(const Byte*, int8_t*, float*), int group>()
                __attribute__((always_inline)) { each_code_block<codes_of, group>(type, bytes, values, out); });
  WEFT_CHECK(known) << "no float values in " << name(type);
}

using Convert = void (*)(StorageType, const Byte*, int64_t, float*);

void convert_base(StorageType type, const Byte* bytes, int64_t values, float* out) {
  convert(type, bytes, values, out);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void convert_avx2(StorageType type, const Byte* bytes, int64_t values, float* out) {
  convert(type, bytes, values, out);
}

Convert choose_convert() { return __builtin_cpu_supports("avx2") ? convert_avx2 : convert_base; }
#else
Convert choose_convert() { return convert_base; }
#endif

}  // namespace

void dequantize(StorageType type, const std::byte* source, int64_t values, float* out) {
  static const Convert chosen = choose_convert();
  if (values > 0) chosen(type, reinterpret_cast<const Byte*>(source), values, out);
}

bool is_code_block(StorageType type) { return is_blocked(type) && type > StorageType::q6_k; }

int block_codes(StorageType type, const std::byte* block, int8_t* codes, float* scales) {
  int size = 0;
  with_codes(type, [&]<void (*codes_of)(const Byte*, int8_t*, float*), int group>() {
    codes_of(reinterpret_cast<const Byte*>(block), codes, scales);
    size = group;
  });
  WEFT_CHECK(size > 0) << name(type) << " has no codes";
  return size;
}

void dequantize_base(StorageType type, const std::byte* source, int64_t values, float* out) {
  if (values > 0) convert_base(type, reinterpret_cast<const Byte*>(source), values, out);
}

}  // namespace weft
