// The one inner loop of matrix products and attention: a tile of MR rows by NP panels of VP vectors, accumulated over k
// in ascending order. Every caller, whatever its tile, adds the same products to an output in the same order, which is
// what makes decode and prefill agree to the bit.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {
namespace {

// What one element of the left operand is: a float, or with a dot instruction a pair of bfloat16.
template <class V, WeightForm form>
constexpr bool kPairs = V::kDot && form == WeightForm::bf16;

// A k-step of the right operand is one k (f32) or a pair of k (bf16).
template <WeightForm form>
constexpr int kStepLength = form == WeightForm::bf16 ? 2 : 1;

template <class V, int MR, int NP, int VP>
struct Accumulators {
  typename V::F at[MR][NP][VP];
};

// Where the operands of a tile lie. Row r of the left operand starts at x + r * ld_x (in floats, or pairs with a dot
// instruction); k-step s of panel p starts at w[p] + s * step_bytes.
template <int NP>
struct TileOperands {
  const float* x;
  ptrdiff_t ld_x;
  const std::byte* w[NP];
  ptrdiff_t step_bytes;
};

template <class V, WeightForm form, int MR, int NP, int VP>
WEFT_INLINE void step_f32(Accumulators<V, MR, NP, VP>& acc, const TileOperands<NP>& o, ptrdiff_t step) {
#pragma GCC unroll 8
  for (int p = 0; p < NP; ++p) {
    typename V::F b[VP];
#pragma GCC unroll 8
    for (int v = 0; v < VP; ++v)
      b[v] = V::load(reinterpret_cast<const float*>(o.w[p] + step * o.step_bytes) + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const typename V::F a = V::set1(o.x[r * o.ld_x + step]);
#pragma GCC unroll 8
      for (int v = 0; v < VP; ++v) V::accumulate(acc.at[r][p][v], a, b[v]);
    }
  }
}

// A pair of k: the even one first. `both` is false for the last, unpaired k of an odd length.
template <class V, bool both, int MR, int NP, int VP>
WEFT_INLINE void step_widened(Accumulators<V, MR, NP, VP>& acc, const TileOperands<NP>& o, ptrdiff_t step) {
#pragma GCC unroll 8
  for (int p = 0; p < NP; ++p) {
    const std::byte* w = o.w[p] + step * o.step_bytes;
    typename V::F b[VP];
#pragma GCC unroll 8
    for (int v = 0; v < VP; ++v) b[v] = V::even(V::load_bits(w + v * V::kLanes * 4));
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const typename V::F a = V::set1(o.x[r * o.ld_x + 2 * step]);
#pragma GCC unroll 8
      for (int v = 0; v < VP; ++v) V::accumulate(acc.at[r][p][v], a, b[v]);
    }
    if constexpr (!both) continue;
#pragma GCC unroll 8
    for (int v = 0; v < VP; ++v) b[v] = V::odd(V::load_bits(w + v * V::kLanes * 4));
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const typename V::F a = V::set1(o.x[r * o.ld_x + 2 * step + 1]);
#pragma GCC unroll 8
      for (int v = 0; v < VP; ++v) V::accumulate(acc.at[r][p][v], a, b[v]);
    }
  }
}

template <class V, int MR, int NP, int VP>
WEFT_INLINE void step_dot(Accumulators<V, MR, NP, VP>& acc, const TileOperands<NP>& o, ptrdiff_t step) {
#pragma GCC unroll 8
  for (int p = 0; p < NP; ++p) {
    typename V::Bits b[VP];
#pragma GCC unroll 8
    for (int v = 0; v < VP; ++v) b[v] = V::load_bits(o.w[p] + step * o.step_bytes + v * V::kLanes * 4);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const typename V::Bits a = V::as_bits(V::set1(o.x[r * o.ld_x + step]));
#pragma GCC unroll 8
      for (int v = 0; v < VP; ++v) acc.at[r][p][v] = V::dot(acc.at[r][p][v], b[v], a);
    }
  }
}

// Adds k elements. kFetchBytes > 0 asks for the panels' memory that far ahead.
template <class V, WeightForm form, int kFetchBytes, int MR, int NP, int VP>
WEFT_INLINE void accumulate(Accumulators<V, MR, NP, VP>& acc, const TileOperands<NP>& o, int k) {
  const ptrdiff_t steps = k / kStepLength<form>;
  for (ptrdiff_t step = 0; step < steps; ++step) {
    if constexpr (kFetchBytes > 0) {
#pragma GCC unroll 8
      for (int p = 0; p < NP; ++p) {
#pragma GCC unroll 8
        for (int line = 0; line < VP * V::kLanes * 4 / 64; ++line) {
          _mm_prefetch(reinterpret_cast<const char*>(o.w[p] + step * o.step_bytes + kFetchBytes + line * 64),
                       _MM_HINT_T0);
        }
      }
    }
    if constexpr (form == WeightForm::f32) step_f32<V, form>(acc, o, step);
    else if constexpr (kPairs<V, form>) step_dot(acc, o, step);
    else step_widened<V, true>(acc, o, step);
  }
  if constexpr (form == WeightForm::bf16) {
    if (k % 2 != 0) {
      if constexpr (kPairs<V, form>) step_dot(acc, o, steps);
      else step_widened<V, false>(acc, o, steps);
    }
  }
}

template <class V, int MR, int NP, int VP>
WEFT_INLINE void clear(Accumulators<V, MR, NP, VP>& acc) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < VP; ++v) acc.at[r][p][v] = V::zero();
    }
  }
}

}  // namespace
}  // namespace weft::kernels
