// Vector exponentials and activations. The coefficients are minimax fits (relative error below 1e-8) made for these
// intervals, so that float rounding is what remains: exp and exp2 are good to about an ulp, gelu to 1e-7.
#pragma once

#include "kernels/kernels.h"

namespace weft::kernels {
namespace {

// 2^x. Below 2^-126 the result is zero; above 2^127 it is not defined (callers have x <= 0). NaN stays NaN.
template <class V>
WEFT_INLINE typename V::F exp2_of(typename V::F x) {
  const typename V::F n = V::round(x), r = V::sub(x, n);
  typename V::F p = V::set1(0.000153533480277461f);
  p = V::fma(p, r, V::set1(0.0013398874983026957f));
  p = V::fma(p, r, V::set1(0.009618437417933761f));
  p = V::fma(p, r, V::set1(0.055503324694879744f));
  p = V::fma(p, r, V::set1(0.24022647912990483f));
  p = V::fma(p, r, V::set1(0.693147202855846f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::select(V::less(x, V::set1(-126.0f)), V::zero(), V::scale2(p, n));
}

// e^x for all x; results below 2^-126 are zero.
template <class V>
WEFT_INLINE typename V::F exp_of(typename V::F x) {
  const typename V::F n = V::round(V::mul(x, V::set1(1.44269504f)));
  typename V::F r = V::fma(n, V::set1(-0.693359375f), x);  // ln 2 in two parts
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  typename V::F p = V::set1(0.0013814606202187853f);
  p = V::fma(p, r, V::set1(0.008368715616982346f));
  p = V::fma(p, r, V::set1(0.041668387823836334f));
  p = V::fma(p, r, V::set1(0.1666652064106782f));
  p = V::fma(p, r, V::set1(0.499999934488893f));
  p = V::fma(p, r, V::set1(1.0f));
  p = V::fma(p, r, V::set1(1.0f));
  const typename V::F e = V::select(V::less(x, V::set1(-87.336544f)), V::zero(), V::scale2(p, n));
  return V::select(V::less(V::set1(88.722839f), x), V::set1(__builtin_inff()), e);
}

// x / (1 + e^(-k x))
template <class V>
WEFT_INLINE typename V::F times_sigmoid(typename V::F x, typename V::F kx) {
  return V::div(x, V::add(V::set1(1.0f), exp_of<V>(V::negate(kx))));
}

// x times the normal distribution function. erfc(z) = e^(-z^2) t P(t) with t = 1 / (1 + 0.3275911 z), z = |x| / sqrt 2.
template <class V>
WEFT_INLINE typename V::F gelu(typename V::F x) {
  const typename V::F z = V::mul(V::abs(x), V::set1(0.70710678f));
  const typename V::F t = V::div(V::set1(1.0f), V::fma(z, V::set1(0.3275911f), V::set1(1.0f)));
  typename V::F p = V::set1(0.058426568036239496f);
  p = V::fma(p, t, V::set1(-0.32693197362012183f));
  p = V::fma(p, t, V::set1(0.6512344990538304f));
  p = V::fma(p, t, V::set1(-0.5932110891219068f));
  p = V::fma(p, t, V::set1(0.5302543779317177f));
  p = V::fma(p, t, V::set1(-0.06672665340998289f));
  p = V::fma(p, t, V::set1(0.21195347113019264f));
  p = V::fma(p, t, V::set1(0.16425822538141366f));
  p = V::fma(p, t, V::set1(0.18597359729726948f));
  p = V::fma(p, t, V::set1(0.18476897472362663f));
  // erfc / 2
  const typename V::F half = V::mul(V::mul(V::set1(0.5f), p), V::mul(t, exp_of<V>(V::negate(V::mul(z, z)))));
  // x <= 0: x * half; else x - x * half
  const typename V::F product = V::mul(x, half);
  return V::select(V::less(V::zero(), x), V::sub(x, product), product);
}

// Near zero an odd polynomial, else 1 - 2 / (e^(2|x|) + 1) with the sign of x.
template <class V>
WEFT_INLINE typename V::F tanh_of(typename V::F x) {
  const typename V::F a = V::abs(x), z = V::mul(x, x);
  typename V::F p = V::set1(0.0021526296286972792f);
  p = V::fma(p, z, V::set1(-0.008211634497641774f));
  p = V::fma(p, z, V::set1(0.021725732433150867f));
  p = V::fma(p, z, V::set1(-0.053953613442834836f));
  p = V::fma(p, z, V::set1(0.13333278634858836f));
  p = V::fma(p, z, V::set1(-0.333333330244255f));
  const typename V::F near = V::fma(V::mul(p, z), x, x);
  const typename V::F e = exp_of<V>(V::add(a, a));
  const typename V::F far = V::sub(V::set1(1.0f), V::div(V::set1(2.0f), V::add(e, V::set1(1.0f))));
  const typename V::F signed_far = V::select(V::less(x, V::zero()), V::negate(far), far);
  return V::select(V::less(a, V::set1(0.625f)), near, signed_far);
}

// cap * tanh(x / cap)
template <class V>
WEFT_INLINE typename V::F soft_capped(typename V::F x, float cap) {
  return V::mul(V::set1(cap), tanh_of<V>(V::div(x, V::set1(cap))));
}

template <class V, Activation act>
WEFT_INLINE typename V::F activated(typename V::F x) {
  if constexpr (act == Activation::silu) return times_sigmoid<V>(x, x);
  if constexpr (act == Activation::quick_gelu) return times_sigmoid<V>(x, V::mul(x, V::set1(1.702f)));
  if constexpr (act == Activation::gelu_tanh) {
    // 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    const typename V::F cubic = V::fma(V::mul(V::mul(x, x), V::set1(0.044715f)), x, x);
    return times_sigmoid<V>(x, V::mul(cubic, V::set1(1.5957691216f)));
  }
  if constexpr (act == Activation::gelu) return gelu<V>(x);
  if constexpr (act == Activation::tanh) return tanh_of<V>(x);
  const typename V::F positive = V::max(V::zero(), x);  // NaN stays NaN
  if constexpr (act == Activation::relu2) return V::mul(positive, positive);
  return positive;
}

}  // namespace
}  // namespace weft::kernels
