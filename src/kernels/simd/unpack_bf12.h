// Bfloat16 weights out of their 12 bits (bf12_layout.h), with AVX-512 BW.
#pragma once

#include <immintrin.h>

#include "kernels/bf12_layout.h"

namespace weft::kernels {
namespace {

// A panel and where its parts are.
struct Bf12Panel {
  const std::byte* bodies;
  const uint32_t* starts;
  const Bf12Exception* exceptions;
  __m512i table;

  Bf12Panel() = default;
  Bf12Panel(const std::byte* at, const Bf12Layout& layout)
      : bodies(at + layout.bodies), starts(reinterpret_cast<const uint32_t*>(at + layout.starts)),
        exceptions(reinterpret_cast<const Bf12Exception*>(at + layout.exceptions)), table(_mm512_load_si512(at)) {}
};

// 128 weights, of 192 bytes.
constexpr ptrdiff_t kUnitBytes = 192;
struct Bf12Unit {
  __m512i weights[4];
};
WEFT_INLINE Bf12Unit unpack_unit(const std::byte* from, __m512i table) {
  const __m512i mantissa = _mm512_set1_epi16(0x7f), sign = _mm512_set1_epi16(INT16_MIN);
  const __m512i indices = _mm512_load_si512(from), first = _mm512_load_si512(from + 64),
                second = _mm512_load_si512(from + 128);
  // The permutation reads five bits of an index, of which the table ignores the highest.
  const __m512i e0 = _mm512_permutexvar_epi16(indices, table),
                e1 = _mm512_permutexvar_epi16(_mm512_srli_epi16(indices, 4), table);
  const __m512i e2 = _mm512_permutexvar_epi16(_mm512_srli_epi16(indices, 8), table);
  const __m512i e3 = _mm512_permutexvar_epi16(_mm512_srli_epi16(indices, 12), table);
  constexpr int kAndOr = 0xea;  // (a & b) | c
  const auto even = [&](__m512i pair, __m512i exponent) __attribute__((always_inline)) {
    return _mm512_ternarylogic_epi32(_mm512_slli_epi16(pair, 8), sign,
                                     _mm512_ternarylogic_epi32(pair, mantissa, exponent, kAndOr), kAndOr);
  };
  const auto odd = [&](__m512i pair, __m512i exponent) __attribute__((always_inline)) {
    return _mm512_ternarylogic_epi32(
        pair, sign, _mm512_ternarylogic_epi32(_mm512_srli_epi16(pair, 8), mantissa, exponent, kAndOr), kAndOr);
  };
  return {{even(first, e0), odd(first, e1), even(second, e2), odd(second, e3)}};
}

// Chunk c of a panel of `columns` columns, as the plain panel has it: columns * 64 bytes; with `fetches` asks for
// memory `ahead` bytes ahead.
template <int columns, bool fetches>
WEFT_INLINE void unpack_chunk(const Bf12Panel& panel, int c, ptrdiff_t ahead, std::byte* to) {
  constexpr int kUnits = columns * kBf12Chunk / 128;
  const std::byte* from = panel.bodies + static_cast<ptrdiff_t>(c) * kUnits * kUnitBytes;
#pragma GCC unroll 4
  for (int u = 0; u < kUnits; ++u) {
    if constexpr (fetches) {
#pragma GCC unroll 3
      for (int line = 0; line < 3; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(from + u * kUnitBytes + ahead + line * 64), _MM_HINT_T0);
    }
    const Bf12Unit unit = unpack_unit(from + u * kUnitBytes, panel.table);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) _mm512_store_si512(to + u * 256 + v * 64, unit.weights[v]);
  }
  for (uint32_t i = panel.starts[c]; i < panel.starts[c + 1]; ++i)
    reinterpret_cast<uint16_t*>(to)[panel.exceptions[i].place] = panel.exceptions[i].bits;
}

}  // namespace
}  // namespace weft::kernels
