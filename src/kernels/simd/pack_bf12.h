// Bfloat16 panels into 12 bits a weight (bf12_layout.h), with AVX-512 BW.
#pragma once

#include <immintrin.h>

#include "kernels/bf12_layout.h"

namespace weft::kernels {
namespace {

constexpr int kBf12Exponents = 15;  // in a row, that the table holds besides 0

// The window of exponents that begins kBf12Exponents below the largest finite one.
[[maybe_unused]] static inline int window_at_the_top(const uint16_t* weights, size_t count) {
  __m512i largest = _mm512_setzero_si512();
  for (size_t i = 0; i < count; i += 32) {
    const __m512i magnitude = _mm512_and_si512(_mm512_loadu_si512(weights + i), _mm512_set1_epi16(0x7fff));
    largest = _mm512_max_epu16(
        largest, _mm512_maskz_mov_epi16(_mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(0x7f80)), magnitude));
  }
  alignas(64) uint16_t lanes[32];
  _mm512_store_si512(lanes, largest);
  int top = 0;
  for (int i = 0; i < 32; ++i) top = lanes[i] >> 7 > top ? lanes[i] >> 7 : top;
  return top > kBf12Exponents ? top - kBf12Exponents + 1 : 1;
}

// The window that most weights have their exponent in.
[[maybe_unused]] static inline int best_window(const uint16_t* weights, size_t count) {
  uint32_t of[256] = {};
  for (size_t i = 0; i < count; ++i) ++of[weights[i] >> 7 & 0xff];
  int best = 1;
  uint32_t most = 0;
  for (int low = 1; low + kBf12Exponents <= 256; ++low) {
    uint32_t held = 0;
    for (int e = low; e < low + kBf12Exponents; ++e) held += of[e];
    if (held > most) most = held, best = low;
  }
  return best;
}

// The table's indices of 32 weights; the others of them are in `outside`.
WEFT_INLINE __m512i bf12_indices(__m512i weights, int low, __mmask32& outside) {
  const __m512i exponent = _mm512_and_si512(_mm512_srli_epi16(weights, 7), _mm512_set1_epi16(0xff));
  const __m512i index = _mm512_sub_epi16(exponent, _mm512_set1_epi16(static_cast<short>(low - 1)));
  const __mmask32 held =
      _mm512_cmplt_epu16_mask(_mm512_sub_epi16(index, _mm512_set1_epi16(1)), _mm512_set1_epi16(kBf12Exponents));
  outside = ~(held | _mm512_testn_epi16_mask(exponent, exponent));
  return _mm512_maskz_mov_epi16(held, index);
}
WEFT_INLINE __m512i sign_and_mantissa(__m512i weights) {
  return _mm512_or_si512(_mm512_and_si512(weights, _mm512_set1_epi16(0x7f)),
                         _mm512_and_si512(_mm512_srli_epi16(weights, 8), _mm512_set1_epi16(0x80)));
}

template <int columns>
bool pack_bf12_with(int low, int k, const uint16_t* weights, std::byte* panel) {
  const Bf12Layout layout = bf12_layout(columns, k);
  const size_t count = static_cast<size_t>(columns) * ((static_cast<size_t>(k) + 1) / 2 * 2);
  auto* table = reinterpret_cast<uint16_t*>(panel);
  for (int i = 0; i < 32; ++i) table[i] = static_cast<uint16_t>(i % 16 == 0 ? 0 : (low + i % 16 - 1) << 7);
  auto* starts = reinterpret_cast<uint32_t*>(panel + layout.starts);
  auto* exceptions = reinterpret_cast<Bf12Exception*>(panel + layout.exceptions);
  starts[0] = 0;
  uint32_t listed = 0;
  size_t at = 0;
  for (int c = 0; c < layout.chunks; ++c) {
    for (size_t unit = 0; unit < layout.chunk_weights / 128; ++unit) {
      __m512i w[4], index[4];
      for (size_t r = 0; r < 4; ++r, at += 32) {
        w[r] = at < count ? _mm512_loadu_si512(weights + at) : _mm512_setzero_si512();
        __mmask32 outside;
        index[r] = bf12_indices(w[r], low, outside);
        if (outside == 0) continue;
        if (listed + static_cast<uint32_t>(__builtin_popcount(outside)) > static_cast<uint32_t>(layout.capacity))
          return false;
        for (uint32_t left = outside; left != 0; left &= left - 1) {
          const size_t place = at + static_cast<size_t>(__builtin_ctz(left));
          exceptions[listed++] = {static_cast<uint16_t>(place - static_cast<size_t>(c) * layout.chunk_weights),
                                  weights[place]};
        }
      }
      std::byte* to = panel + layout.bodies + static_cast<size_t>(c) * layout.chunk_bytes + unit * 192;
      const __m512i low_indices = _mm512_or_si512(index[0], _mm512_slli_epi16(index[1], 4));
      const __m512i high_indices = _mm512_or_si512(_mm512_slli_epi16(index[2], 8), _mm512_slli_epi16(index[3], 12));
      _mm512_store_si512(to, _mm512_or_si512(low_indices, high_indices));
      _mm512_store_si512(to + 64,
                         _mm512_or_si512(sign_and_mantissa(w[0]), _mm512_slli_epi16(sign_and_mantissa(w[1]), 8)));
      _mm512_store_si512(to + 128,
                         _mm512_or_si512(sign_and_mantissa(w[2]), _mm512_slli_epi16(sign_and_mantissa(w[3]), 8)));
    }
    starts[c + 1] = listed;
  }
  return true;
}

// See CpuTable::pack_panel_bf12.
template <int columns>
bool pack_bf12(int k, const std::byte* plain, std::byte* panel) {
  const auto* weights = reinterpret_cast<const uint16_t*>(plain);
  const size_t count = static_cast<size_t>(columns) * ((static_cast<size_t>(k) + 1) / 2 * 2);
  const int top = window_at_the_top(weights, count);
  if (pack_bf12_with<columns>(top, k, weights, panel)) return true;
  const int best = best_window(weights, count);
  return best != top && pack_bf12_with<columns>(best, k, weights, panel);
}

}  // namespace
}  // namespace weft::kernels
