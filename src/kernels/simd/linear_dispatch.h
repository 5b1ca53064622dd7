// Picks the Product (linear_blocks.h) for a packed matrix.
#pragma once

#include "kernels/simd/linear.h"
#include "kernels/simd/linear_int8.h"
#ifdef __AVX512BF16__
#include "kernels/simd/linear_bf12.h"
#endif
#ifdef __AMX_BF16__
#include "kernels/simd/linear_int8_tiles.h"
#endif
#include "kernels/simd/linear_widened.h"

namespace weft::kernels {
namespace {

#ifdef __AMX_INT8__
template <class V, WeightForm form>
using ByteProduct = Int8TileProduct<V, form>;
#else
template <class V, WeightForm form>
using ByteProduct = Int8Product<V, form>;
#endif

// Calls fn.template operator()<V, Product>() with the Product that multiplies rows with `w` and its vectors.
template <class V, class Fn>
void with_product(const PackedMatrix& w, Fn fn) {
  const bool int8_rows = w.operand == Operand::int8;
  const Values values = values_of(w.groups);
  switch (w.form) {
    case WeightForm::f32: return fn.template operator()<V, FloatProduct<V, WeightForm::f32>>();
    case WeightForm::bf16:
#ifdef __AMX_BF16__
      return fn.template operator()<TileVectors<V>, TileProduct<TileVectors<V>, WeightForm::bf16>>();
#else
      return fn.template operator()<V, FloatProduct<V, WeightForm::bf16>>();
#endif
    case WeightForm::bf12:
#if defined(__AMX_BF16__)
      return fn.template operator()<TileVectors<V>, TileProduct<TileVectors<V>, WeightForm::bf12>>();
#elif defined(__AVX512BF16__)
      return fn.template operator()<V, Bf12Product<V>>();
#else
      return;  // these tables do not pack it
#endif
    case WeightForm::fp8: return fn.template operator()<V, WidenedProduct<V, WeightForm::fp8, Values::centred>>();
    case WeightForm::int8:
      if (int8_rows) return fn.template operator()<V, ByteProduct<V, WeightForm::int8>>();
      return fn.template operator()<V, WidenedProduct<V, WeightForm::int8, Values::centred>>();
    case WeightForm::int4:
      if (int8_rows) return fn.template operator()<V, ByteProduct<V, WeightForm::int4>>();
      if (values == Values::added)
        return fn.template operator()<V, WidenedProduct<V, WeightForm::int4, Values::added>>();
      if (values == Values::subtracted)
        return fn.template operator()<V, WidenedProduct<V, WeightForm::int4, Values::subtracted>>();
      return fn.template operator()<V, WidenedProduct<V, WeightForm::int4, Values::centred>>();
    case WeightForm::fp4: return fn.template operator()<V, WidenedProduct<V, WeightForm::fp4, Values::centred>>();
    case WeightForm::int6:
      if (values == Values::added)
        return fn.template operator()<V, WidenedProduct<V, WeightForm::int6, Values::added>>();
      return fn.template operator()<V, WidenedProduct<V, WeightForm::int6, Values::centred>>();
  }
}

template <class V>
void compute(const LinearArgs& a, int rows, Part part) {
  if (rows <= 0) return;
  with_product<V>(a.w, [&]<class Vectors, class Product>() { linear_by<Vectors, Product>(a, rows, part); });
}

}  // namespace
}  // namespace weft::kernels
