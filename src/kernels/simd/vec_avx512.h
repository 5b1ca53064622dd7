// Vector traits of AVX-512 (F, BW, VL, DQ): 16 float lanes, and with the bfloat16 dot instruction where the processor
// has it. The kernels' code for 16 lanes is tested on every machine with plain arrays instead of vectors (vec_plain.h);
// the intrinsics in this file are tested only on machines with AVX-512.
#pragma once

#include <immintrin.h>

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

struct Avx512 {
  using F = __m512;
  using Bits = __m512i;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static constexpr int kPanelVectors = 4;
  static constexpr bool kDot = false;
  static constexpr int kFreeRegisters = 24;

  WEFT_INLINE F zero() { return _mm512_setzero_ps(); }
  WEFT_INLINE F set1(float value) { return _mm512_set1_ps(value); }
  WEFT_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  WEFT_INLINE void store(float* p, F value) { _mm512_storeu_ps(p, value); }
  WEFT_INLINE Bits load_bits(const void* p) { return _mm512_loadu_si512(p); }
  WEFT_INLINE Mask first(int n) { return static_cast<Mask>((1u << n) - 1u); }  // 0 <= n <= 16
  WEFT_INLINE F load_n(const float* p, int n) { return as_float(load_bits_n(p, n)); }
  WEFT_INLINE Bits load_bits_n(const void* p, int n) { return _mm512_maskz_loadu_epi32(first(n), p); }
  WEFT_INLINE void store_n(float* p, F value, int n) { _mm512_mask_storeu_ps(p, first(n), value); }

  WEFT_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  WEFT_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  WEFT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  WEFT_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  WEFT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  WEFT_INLINE void accumulate(F& c, F a, F b) { c = _mm512_fmadd_ps(a, b, c); }
  WEFT_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }  // b if either is NaN
  WEFT_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  WEFT_INLINE F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  WEFT_INLINE F negate(F a) { return as_float(_mm512_xor_si512(as_bits(a), _mm512_set1_epi32(INT32_MIN))); }
  WEFT_INLINE F abs(F a) { return as_float(_mm512_and_si512(as_bits(a), _mm512_set1_epi32(INT32_MAX))); }
  WEFT_INLINE F scale2(F p, F n) {
    return as_float(_mm512_add_epi32(as_bits(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
  }

  WEFT_INLINE Mask less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  WEFT_INLINE F select(Mask mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
  WEFT_INLINE Mask between(int first_lane, int last_lane) {
    const int low = first_lane < 0    ? 0
                    : first_lane > 16 ? 16
                                      : first_lane,
              high = last_lane < low  ? low
                     : last_lane > 16 ? 16
                                      : last_lane;
    return static_cast<Mask>(((1u << high) - 1u) & ~((1u << low) - 1u));
  }
  // The two halves, then as AVX2 would: a fixed tree.
  WEFT_INLINE float sum(F a) {
    alignas(64) float lanes[16];
    _mm512_storeu_ps(lanes, a);
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
  }
  WEFT_INLINE float largest(F a) {
    alignas(64) float lanes[16];
    _mm512_storeu_ps(lanes, a);
    for (int i = 1; i < 16; ++i) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
  }

  WEFT_INLINE F even(Bits pairs) { return as_float(_mm512_slli_epi32(pairs, 16)); }
  WEFT_INLINE F odd(Bits pairs) { return as_float(and_bits(pairs, 0xffff0000u)); }
  WEFT_INLINE Bits and_bits(Bits a, uint32_t mask) {
    return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(mask)));
  }

  WEFT_INLINE F to_float(Bits a) { return _mm512_cvtepi32_ps(a); }
  WEFT_INLINE Bits to_int(F a) { return _mm512_cvtps_epi32(a); }
  // Sixteen floats, and the one whose number is in the low four bits of each lane.
  static constexpr bool kLooksUp = true;  // level() is one instruction
  using Levels = F;
  WEFT_INLINE Levels load_levels(const float* p) { return load(p); }
  WEFT_INLINE F level(Levels levels, Bits number) { return _mm512_permutexvar_ps(number, levels); }
  WEFT_INLINE Bits set1_bits(int32_t value) { return _mm512_set1_epi32(value); }
  WEFT_INLINE Bits add_bits(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
  WEFT_INLINE Bits sub_bits(Bits a, Bits b) { return _mm512_sub_epi32(a, b); }
  WEFT_INLINE Bits or_bits(Bits a, Bits b) { return _mm512_or_si512(a, b); }
  WEFT_INLINE Bits masked_or(Bits a, int32_t mask, Bits b) {  // (a & mask) | b
    return _mm512_ternarylogic_epi32(a, _mm512_set1_epi32(mask), b, 0xea);
  }
  template <int n>
  WEFT_INLINE Bits shift_left(Bits a) {
    return _mm512_slli_epi32(a, n);
  }
  template <int n>
  WEFT_INLINE Bits shift_right(Bits a) {
    return _mm512_srli_epi32(a, n);
  }
  template <int n>
  WEFT_INLINE Bits shift_right_signed(Bits a) {
    return _mm512_srai_epi32(a, n);
  }
  WEFT_INLINE Bits load_u8(const void* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  WEFT_INLINE Bits load_i8(const void* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  WEFT_INLINE F load_bf16(const void* p) {
    return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
  }
  WEFT_INLINE F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
  WEFT_INLINE void store_i8(int8_t* p, Bits a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a));
  }

  static constexpr int kBiasI8 = 0;
  // See vec_avx2.h; there is no sign instruction, but a mask of the negative weights.
  WEFT_INLINE void dot_i8(Bits& acc, Bits w, Bits magnitude, Bits a) {
    const Bits signed_a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(magnitude, signed_a), _mm512_set1_epi16(1)));
  }
  WEFT_INLINE Bits unsigned_i8(Bits w) { return _mm512_abs_epi8(w); }
  WEFT_INLINE void dot_u4(Bits& acc, Bits u, Bits a) { acc = _mm512_add_epi16(acc, _mm512_maddubs_epi16(u, a)); }
  WEFT_INLINE Bits sum_u4(Bits acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }

  WEFT_INLINE Bits round_bf16(F a) {
    const Bits bits = as_bits(a);
    const Bits lowest = and_bits(_mm512_srli_epi32(bits, 16), 1);
    const Bits rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
    const Bits quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const Mask nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return and_bits(_mm512_mask_blend_epi32(nan, rounded, quiet), 0xffff0000u);
  }
  WEFT_INLINE F as_float(Bits a) { return _mm512_castsi512_ps(a); }
  WEFT_INLINE Bits as_bits(F a) { return _mm512_castps_si512(a); }
  WEFT_INLINE void store_bf16(uint16_t* p, F a) {
    const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(a), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  }
};

// c += a.even * b.even + a.odd * b.odd in each lane.
struct Avx512Dot : Avx512 {
  static constexpr bool kDot = true;
  WEFT_INLINE F dot(F c, Bits a, Bits b) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
#ifdef __AVX512VNNI__
  // Four products straight into 32 bits, unsigned by signed, without saturation. Signed weights come as w + 128, so
  // that kBiasI8 times the sum of a is to be taken off.
  static constexpr int kBiasI8 = 128;
  WEFT_INLINE void dot_i8(Bits& acc, Bits, Bits biased, Bits a) { acc = _mm512_dpbusd_epi32(acc, biased, a); }
  WEFT_INLINE Bits unsigned_i8(Bits w) { return _mm512_xor_si512(w, _mm512_set1_epi8(INT8_MIN)); }
  WEFT_INLINE void dot_u4(Bits& acc, Bits u, Bits a) { acc = _mm512_dpbusd_epi32(acc, u, a); }
  WEFT_INLINE Bits sum_u4(Bits acc) { return acc; }
#endif
};

}  // namespace
}  // namespace weft::kernels
