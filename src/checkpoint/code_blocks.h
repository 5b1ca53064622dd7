// ggml's block formats whose values are a small whole number (a code) times the scale of its group: what the codes and
// scales of one block are. Layouts and numbers are those of ggml (ggml-quants.c, dequantize_row_*). There a value is
// made in several steps (scale * grid * sign, scale * (grid + 1/8)); every step but the last is exact, since a float16
// scale has 11 bits and the factors few, so that code * scale has the same bits.
//
// Inlined into functions that are compiled for several instruction sets; see dequantize.cc. Internal linkage.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "checkpoint/block_bits.h"
#include "checkpoint/iq_grids.h"
#include "checkpoint/storage_type.h"

namespace weft {
namespace {

// The points of a grid with one byte for each value: `bits` wide indices, lowest first, into `levels`.
template <int bits, size_t n, size_t level_count>
constexpr auto expand_grid(const uint16_t (&grid)[n], const int8_t (&levels)[level_count]) {
  std::array<std::array<int8_t, 16 / bits>, n> points{};
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < 16 / bits; ++j) points[i][j] = levels[grid[i] >> (bits * j) & ((1 << bits) - 1)];
  return points;
}

constexpr int8_t kIq2Levels[] = {8, 25, 43}, kIq3XxsLevels[] = {4, 12, 20, 28, 36, 44, 52, 62},
                 kIq3SLevels[] = {1, 3, 5, 7, 9, 11, 13, 15};
constexpr int8_t kIq1Levels[] = {-8, 0, 8};  // in eighths, as are the deltas of 1/8
constexpr auto kIq2Xxs = expand_grid<2>(kIq2XxsGrid, kIq2Levels);
constexpr auto kIq2Xs = expand_grid<2>(kIq2XsGrid, kIq2Levels);
constexpr auto kIq2S = expand_grid<2>(kIq2SGrid, kIq2Levels);
constexpr auto kIq3Xxs = expand_grid<4>(kIq3XxsGrid, kIq3XxsLevels);
constexpr auto kIq3S = expand_grid<4>(kIq3SGrid, kIq3SLevels);
constexpr auto kIq1 = expand_grid<2>(kIq1Grid, kIq1Levels);

// The codes that four bits of iq4_nl and iq4_xs stand for.
constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Twice the values of e2m1.
constexpr int8_t kFp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Seven sign bits; the eighth makes their number even.
WEFT_INLINE unsigned even_signs(unsigned bits) { return bits | (static_cast<unsigned>(std::popcount(bits)) & 1u) << 7; }

// Copies `n` values of a grid, negated where the sign bits from `first` on are set.
template <int n>
WEFT_INLINE void signed_point(const int8_t* point, unsigned signs, int first, int8_t* out) {
  WEFT_ROLLED for (int j = 0; j < n; ++j) {
    const int minus = -static_cast<int>(signs >> (first + j) & 1u);
    out[j] = static_cast<int8_t>((point[j] ^ minus) - minus);
  }
}

// (1 / 2 + s) / 4 of a float16, exactly.
WEFT_INLINE float iq2_scale(float d, unsigned s) { return d * (0.5f + static_cast<float>(s)) * 0.25f; }

// {f16 d, 8 times: four bytes of grid indices; 4 times 7 bits of signs and 4 bits of scale}. Groups of 32.
WEFT_INLINE void codes_iq2_xxs(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 8; ++group) {
    const Byte* q = b + 2 + 8 * group;
    const uint32_t rest = load_u32(q + 4);
    scales[group] = iq2_scale(d, rest >> 28);
    for (int i = 0; i < 4; ++i)
      signed_point<8>(kIq2Xxs[q[i]].data(), even_signs(rest >> (7 * i) & 127u), 0, codes + 32 * group + 8 * i);
  }
}

// {f16 d, 32 times: 9 bits of grid index and 7 of signs, 8 bytes of 4-bit scales}. Groups of 16.
WEFT_INLINE void codes_iq2_xs(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 16; ++group) scales[group] = iq2_scale(d, b[66 + group / 2] >> (4 * (group & 1)) & 15u);
  for (int i = 0; i < 32; ++i) {
    const unsigned word = load_u16(b + 2 + 2 * i);
    signed_point<8>(kIq2Xs[word & 511u].data(), even_signs(word >> 9), 0, codes + 8 * i);
  }
}

// {f16 d, 32 low bytes of grid indices, 32 bytes of signs, 8 bytes of two high index bits, 8 bytes of 4-bit scales}.
// Groups of 16.
WEFT_INLINE void codes_iq2_s(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 16; ++group) scales[group] = iq2_scale(d, b[74 + group / 2] >> (4 * (group & 1)) & 15u);
  for (int i = 0; i < 32; ++i) {
    const unsigned high = b[66 + i / 4] >> (2 * (i % 4)) & 3u;
    signed_point<8>(kIq2S[b[2 + i] | high << 8].data(), b[34 + i], 0, codes + 8 * i);
  }
}

// {f16 d, 64 bytes of grid indices, 8 times: 4 times 7 bits of signs and 4 bits of scale}. Groups of 32.
WEFT_INLINE void codes_iq3_xxs(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 8; ++group) {
    const uint32_t rest = load_u32(b + 66 + 4 * group);
    scales[group] = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
    for (int i = 0; i < 8; ++i)
      signed_point<4>(kIq3Xxs[b[2 + 8 * group + i]].data(), even_signs(rest >> (7 * (i / 2)) & 127u), 4 * (i & 1),
                      codes + 32 * group + 4 * i);
  }
}

// {f16 d, 64 low bytes of grid indices, 8 bytes of ninth bits, 32 bytes of signs, 4 bytes of 4-bit scales}. Groups of
// 32.
WEFT_INLINE void codes_iq3_s(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 8; ++group) {
    scales[group] = d * static_cast<float>(1 + 2 * (b[106 + group / 2] >> (4 * (group & 1)) & 15));
    for (int i = 0; i < 8; ++i) {
      const unsigned ninth = b[66 + group] >> i & 1u;
      signed_point<4>(kIq3S[b[2 + 8 * group + i] | ninth << 8].data(), b[74 + 4 * group + i / 2], 4 * (i & 1),
                      codes + 32 * group + 4 * i);
    }
  }
}

// Adds a delta of 1/8 or -1/8 to a point of the IQ1 grid, in eighths.
WEFT_INLINE void shifted_point(unsigned index, bool minus, int8_t* out) {
  const int delta = minus ? -1 : 1;
  WEFT_ROLLED for (int j = 0; j < 8; ++j) out[j] = static_cast<int8_t>(kIq1[index][static_cast<size_t>(j)] + delta);
}

// {f16 d, 32 low bytes of grid indices, 8 words: 4 times three high bits, three bits of scale, sign of the delta}.
// Groups of 32.
WEFT_INLINE void codes_iq1_s(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  for (int group = 0; group < 8; ++group) {
    const unsigned high = load_u16(b + 34 + 2 * group);
    scales[group] = d * static_cast<float>(2 * (high >> 12 & 7u) + 1) * 0.125f;
    for (int i = 0; i < 4; ++i)
      shifted_point(b[2 + 4 * group + i] | (high >> (3 * i) & 7u) << 8, (high & 0x8000u) != 0,
                    codes + 32 * group + 8 * i);
  }
}

// {32 low bytes of grid indices, 16 bytes: for each eight values three high bits and the sign of the delta, 4 words: 4
// times three bits of scale, and four bits of the float16 d}. Groups of 16.
WEFT_INLINE void codes_iq1_m(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  unsigned half = 0;
  for (int i = 0; i < 4; ++i) half |= (load_u16(b + 48 + 2 * i) >> 12u) << (4 * i);
  const float d = half_to_float(static_cast<uint16_t>(half));
  for (int group = 0; group < 16; ++group) {
    const unsigned s = load_u16(b + 48 + 2 * (group / 4)) >> (3 * (group % 4)) & 7u;
    scales[group] = d * static_cast<float>(2 * s + 1) * 0.125f;
    for (int i = 0; i < 2; ++i) {
      const unsigned high = b[32 + group] >> (4 * i) & 15u;
      shifted_point(b[2 * group + i] | (high & 7u) << 8, (high & 8u) != 0, codes + 16 * group + 8 * i);
    }
  }
}

// `n` bytes of four bits: the low ones first, then the high ones.
template <int n>
WEFT_INLINE void levels_of_nibbles(const Byte* __restrict q, const int8_t (&levels)[16], int8_t* __restrict codes) {
  WEFT_ROLLED for (int j = 0; j < n; ++j) codes[j] = levels[q[j] & 15];
  WEFT_ROLLED for (int j = 0; j < n; ++j) codes[j + n] = levels[q[j] >> 4];
}

// {f16 d, 16 bytes of nibbles}. Groups of 32.
WEFT_INLINE void codes_iq4_nl(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  scales[0] = load_half(b);
  levels_of_nibbles<16>(b + 2, kIq4Levels, codes);
}

// {f16 d, a word of two high scale bits, 4 bytes of four low ones, 8 times 16 bytes of nibbles}. Groups of 32.
WEFT_INLINE void codes_iq4_xs(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const float d = load_half(b);
  const unsigned high = load_u16(b + 2);
  for (int group = 0; group < 8; ++group) {
    const unsigned low = b[4 + group / 2] >> (4 * (group & 1)) & 15u;
    scales[group] = d * static_cast<float>(static_cast<int>(low | (high >> (2 * group) & 3u) << 4) - 32);
    levels_of_nibbles<16>(b + 8 + 16 * group, kIq4Levels, codes + 32 * group);
  }
}

// {exponent, 16 bytes of nibbles}: half of e8m0, since the levels are doubled. Groups of 32.
WEFT_INLINE void codes_mxfp4(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  const uint32_t e = b[0];
  scales[0] = std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  levels_of_nibbles<16>(b + 1, kFp4Levels, codes);
}

// {4 scales in e4m3 without sign, 4 times 8 bytes of nibbles}; 0x7f counts as zero. Groups of 16.
WEFT_INLINE void codes_nvfp4(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  for (int group = 0; group < 4; ++group) {
    const int exponent = b[group] >> 3 & 15, fraction = b[group] & 7;
    const float value =
        exponent == 0
            ? static_cast<float>(fraction) * 0x1p-9f
            : std::bit_cast<float>(static_cast<uint32_t>(exponent + 120) << 23 | static_cast<uint32_t>(fraction) << 20);
    scales[group] = b[group] == 0x7f ? 0.0f : value * 0.5f;
    levels_of_nibbles<8>(b + 4 + 8 * group, kFp4Levels, codes + 16 * group);
  }
}

// Digit `n` of the five to base 3 that a byte holds as a fraction of 256, minus 1.
WEFT_INLINE int8_t ternary(Byte q, unsigned power) {
  return static_cast<int8_t>(static_cast<int>(((q * power & 255u) * 3u) >> 8) - 1);
}

// {32, 16 and 4 bytes of 5, 5 and 4 digits to base 3, f16 d}: each run of bytes holds its first digits, then its
// second. One group.
WEFT_INLINE void codes_tq1_0(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  constexpr unsigned kPowers[] = {1, 3, 9, 27, 81};
  scales[0] = load_half(b + 52);
  for (int n = 0; n < 5; ++n) WEFT_ROLLED for (int j = 0; j < 32; ++j) codes[32 * n + j] = ternary(b[j], kPowers[n]);
  for (int n = 0; n < 5; ++n)
    WEFT_ROLLED for (int j = 0; j < 16; ++j) codes[160 + 16 * n + j] = ternary(b[32 + j], kPowers[n]);
  for (int n = 0; n < 4; ++n)
    for (int j = 0; j < 4; ++j) codes[240 + 4 * n + j] = ternary(b[48 + j], kPowers[n]);
}

// {two runs of 32 bytes of 2-bit codes: bits 0-1 the first 32 values, f16 d}. One group.
WEFT_INLINE void codes_tq2_0(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  scales[0] = load_half(b + 64);
  for (int part = 0; part < 8; ++part)
    WEFT_ROLLED for (int j = 0; j < 32; ++j) codes[32 * part + j] =
        static_cast<int8_t>((b[32 * (part / 4) + j] >> (2 * (part % 4)) & 3) - 1);
}

// {f16 d, 16 bytes of signs}: 1 is +d. One group of 128.
WEFT_INLINE void codes_q1_0(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  scales[0] = load_half(b);
  for (int i = 0; i < 16; ++i)
    WEFT_ROLLED for (int j = 0; j < 8; ++j) codes[8 * i + j] = static_cast<int8_t>(2 * (b[2 + i] >> j & 1) - 1);
}

// {f16 d, f16 sum, 32 int8}. One group.
WEFT_INLINE void codes_q8_1(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  scales[0] = load_half(b);
  std::memcpy(codes, b + 4, 32);
}

// {f32 d, 256 int8, sums}. One group.
WEFT_INLINE void codes_q8_k(const Byte* __restrict b, int8_t* __restrict codes, float* __restrict scales) {
  std::memcpy(scales, b, sizeof(float));
  std::memcpy(codes, b + 4, 256);
}

// Calls fn.template operator()<codes_*, group size>() for the formats above; false for any other.
template <class Fn>
WEFT_INLINE bool with_codes(StorageType type, Fn fn) {
  switch (type) {
    case StorageType::q1_0: fn.template operator()<codes_q1_0, 128>(); return true;
    case StorageType::q8_1: fn.template operator()<codes_q8_1, 32>(); return true;
    case StorageType::q8_k: fn.template operator()<codes_q8_k, 256>(); return true;
    case StorageType::iq1_s: fn.template operator()<codes_iq1_s, 32>(); return true;
    case StorageType::iq1_m: fn.template operator()<codes_iq1_m, 16>(); return true;
    case StorageType::iq2_xxs: fn.template operator()<codes_iq2_xxs, 32>(); return true;
    case StorageType::iq2_xs: fn.template operator()<codes_iq2_xs, 16>(); return true;
    case StorageType::iq2_s: fn.template operator()<codes_iq2_s, 16>(); return true;
    case StorageType::iq3_xxs: fn.template operator()<codes_iq3_xxs, 32>(); return true;
    case StorageType::iq3_s: fn.template operator()<codes_iq3_s, 32>(); return true;
    case StorageType::iq4_nl: fn.template operator()<codes_iq4_nl, 32>(); return true;
    case StorageType::iq4_xs: fn.template operator()<codes_iq4_xs, 32>(); return true;
    case StorageType::tq1_0: fn.template operator()<codes_tq1_0, 256>(); return true;
    case StorageType::tq2_0: fn.template operator()<codes_tq2_0, 256>(); return true;
    case StorageType::mxfp4: fn.template operator()<codes_mxfp4, 32>(); return true;
    case StorageType::nvfp4: fn.template operator()<codes_nvfp4, 16>(); return true;
    default: return false;
  }
}

}  // namespace
}  // namespace weft
