// Vector traits of AVX2 with FMA: 8 float lanes. The kernels in this folder are templates over such a struct.
//
// A trait struct has internal linkage like everything in this folder (see layout.h).
#pragma once

#include <immintrin.h>

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

struct Avx2 {
  using F = __m256;      // float lanes
  using Bits = __m256i;  // the same bits as integers; also a pair of bfloat16 in each lane
  using Mask = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kPanelVectors = 2;    // a panel of packed weights is this wide
  static constexpr bool kDot = false;        // no bfloat16 dot instruction: pairs are widened
  static constexpr int kFreeRegisters = 12;  // accumulators that stay in registers

  WEFT_INLINE F zero() { return _mm256_setzero_ps(); }
  WEFT_INLINE F set1(float value) { return _mm256_set1_ps(value); }
  WEFT_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  WEFT_INLINE void store(float* p, F value) { _mm256_storeu_ps(p, value); }
  WEFT_INLINE Bits load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  // The first n lanes (0 < n < kLanes); the others read as zero and are not touched.
  WEFT_INLINE Bits first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  WEFT_INLINE F load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  WEFT_INLINE Bits load_bits_n(const void* p, int n) {
    return _mm256_maskload_epi32(static_cast<const int*>(p), first(n));
  }
  WEFT_INLINE void store_n(float* p, F value, int n) { _mm256_maskstore_ps(p, first(n), value); }

  WEFT_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  WEFT_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  WEFT_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  WEFT_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  WEFT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // c += a * b in c's register. Left to itself the compiler moves accumulators about and, with all sixteen in use,
  // spills them.
  WEFT_INLINE void accumulate(F& c, F a, F b) { asm("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b)); }
  WEFT_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }  // b if either is NaN
  WEFT_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  WEFT_INLINE F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  WEFT_INLINE F negate(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
  WEFT_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  // p * 2^n for whole n, by adding to the exponent; the caller keeps the result in range.
  WEFT_INLINE F scale2(F p, F n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }

  WEFT_INLINE Mask less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  WEFT_INLINE F select(Mask mask, F yes, F no) { return _mm256_blendv_ps(no, yes, mask); }
  // Lanes i with first <= i < last.
  WEFT_INLINE Mask between(int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                                                _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane)));
  }
  WEFT_INLINE float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  WEFT_INLINE float largest(F a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }

  // The two halves of pairs of bfloat16 as floats.
  WEFT_INLINE F even(Bits pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
  WEFT_INLINE F odd(Bits pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  WEFT_INLINE Bits and_bits(Bits a, uint32_t mask) {
    return _mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(mask)));
  }

  // ---- Integers in 32-bit lanes, and what widens stored codes and scales to them
  WEFT_INLINE F to_float(Bits a) { return _mm256_cvtepi32_ps(a); }
  WEFT_INLINE Bits to_int(F a) { return _mm256_cvtps_epi32(a); }  // nearest, ties to even
  // Sixteen floats, and the one whose number is in the low four bits of each lane.
  static constexpr bool kLooksUp = false;
  struct Levels {
    F low, high;
  };
  WEFT_INLINE Levels load_levels(const float* p) { return {load(p), load(p + 8)}; }
  WEFT_INLINE F level(Levels levels, Bits number) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(levels.low, number), _mm256_permutevar8x32_ps(levels.high, number),
                            _mm256_castsi256_ps(_mm256_slli_epi32(number, 28)));
  }
  WEFT_INLINE Bits set1_bits(int32_t value) { return _mm256_set1_epi32(value); }
  WEFT_INLINE Bits add_bits(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
  WEFT_INLINE Bits sub_bits(Bits a, Bits b) { return _mm256_sub_epi32(a, b); }
  WEFT_INLINE Bits masked_or(Bits a, int32_t mask, Bits b) {  // (a & mask) | b
    return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(mask)), b);
  }
  template <int n>
  WEFT_INLINE Bits shift_left(Bits a) {
    return _mm256_slli_epi32(a, n);
  }
  template <int n>
  WEFT_INLINE Bits shift_right(Bits a) {
    return _mm256_srli_epi32(a, n);
  }
  template <int n>
  WEFT_INLINE Bits shift_right_signed(Bits a) {
    return _mm256_srai_epi32(a, n);
  }
  WEFT_INLINE Bits load_u8(const void* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  }
  WEFT_INLINE Bits load_i8(const void* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  }
  WEFT_INLINE F load_bf16(const void* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
  }
  WEFT_INLINE F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
  WEFT_INLINE void store_i8(int8_t* p, Bits a) {
    const __m256i words = _mm256_packs_epi32(a, a);
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                     _mm_packs_epi16(_mm_unpacklo_epi64(low, high), _mm_setzero_si128()));
  }

  // ---- Sums of four products of bytes in each lane. `a` is -127 ... 127.
  // acc += w . a for signed w, given w and unsigned_i8(w), plus kBiasI8 times the sum of a. The instruction takes an
  // unsigned and a signed operand, so the sign of w is moved to a; pairs stay within 16 bits since |w a| <= 128 * 127.
  static constexpr int kBiasI8 = 0;
  // As with accumulate(), the compiler left to itself keeps many products waiting and spills the sums.
  WEFT_INLINE void dot_i8(Bits& acc, Bits w, Bits magnitude, Bits a) {
    Bits t;
    asm("vpsignb %[w], %[a], %[t]\n\tvpmaddubsw %[t], %[u], %[t]\n\tvpmaddwd %[ones], %[t], %[t]\n\tvpaddd %[t], "
        "%[acc], %[acc]"
        : [acc] "+x"(acc), [t] "=&x"(t)
        : [w] "x"(w), [u] "x"(magnitude), [a] "x"(a), [ones] "x"(_mm256_set1_epi16(1)));
  }
  WEFT_INLINE Bits unsigned_i8(Bits w) { return _mm256_abs_epi8(w); }
  // acc += u . a for u of 0 ... 15, acc not to be read before sum_u4(); eight of them fit into 16 bits (8 * 2 * 15 *
  // 127 < 2^15).
  WEFT_INLINE void dot_u4(Bits& acc, Bits u, Bits a) {
    Bits t;
    asm("vpmaddubsw %[a], %[u], %[t]\n\tvpaddw %[t], %[acc], %[acc]"
        : [acc] "+x"(acc), [t] "=&x"(t)
        : [u] "x"(u), [a] "x"(a));
  }
  WEFT_INLINE Bits sum_u4(Bits acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }

  // Rounded to bfloat16 (nearest, ties to even; NaN stays NaN), in the upper half of each lane.
  WEFT_INLINE Bits round_bf16(F a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i lowest = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_and_si256(_mm256_blendv_epi8(rounded, quiet, nan), _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
  }
  WEFT_INLINE F as_float(Bits a) { return _mm256_castsi256_ps(a); }
  WEFT_INLINE void store_bf16(uint16_t* p, F a) {
    const __m256i halves = _mm256_srli_epi32(round_bf16(a), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};

}  // namespace
}  // namespace weft::kernels
