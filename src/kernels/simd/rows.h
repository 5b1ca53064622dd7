// Ops on rows of activations: norms, heads (norm and rotation), activations, conversion to operands, addition.
#pragma once

#include "kernels/layout.h"
#include "kernels/quantized_layout.h"
#include "kernels/simd/math.h"

namespace weft::kernels {
namespace {

// out[c .. c + n) of a row, 0 < n <= kLanes.
template <class V>
WEFT_INLINE void store_operand(void* row, int64_t c, Operand operand, typename V::F value, int n) {
  if (operand == Operand::bf16) {
    uint16_t* out = static_cast<uint16_t*>(row) + c;
    if (n >= V::kLanes) return V::store_bf16(out, value);
    uint16_t lanes[V::kLanes];
    V::store_bf16(lanes, value);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
    return;
  }
  if (operand == Operand::f32_as_bf16) value = V::as_float(V::round_bf16(value));
  float* out = static_cast<float*>(row) + c;
  if (n >= V::kLanes) V::store(out, value);
  else V::store_n(out, value, n);
}
[[maybe_unused]] static inline void end_row(void* row, int cols, Operand operand) {
  if (operand == Operand::bf16 && cols % 2 != 0) static_cast<uint16_t*>(row)[cols] = 0;
}
WEFT_INLINE void* row_at(void* out, int64_t elements, Operand operand) {
  return static_cast<std::byte*>(out) + elements * operand_size_bytes(operand);
}

template <class V>
WEFT_INLINE typename V::F load_upto(const float* p, int n) {
  return n >= V::kLanes ? V::load(p) : V::load_n(p, n);
}

// One strip of an int8 operand from kStrip floats.
template <class V>
WEFT_INLINE void store_strip(int8_t* row, int cols, int strip, const float* values) {
  typename V::F largest_lanes = V::zero(), poison = V::zero();
  for (int c = 0; c < kStrip; c += V::kLanes) {
    const typename V::F value = V::load(values + c);
    largest_lanes = V::max(largest_lanes, V::abs(value));
    poison = V::fma(value, V::zero(), poison);  // NaN where a value is not finite
  }
  const bool finite = V::sum(poison) == 0.0f;
  const float largest = V::largest(largest_lanes),
              inverse = finite && largest > kSmallestStrip ? 127.0f / largest : 0.0f;
  typename V::Bits sum = V::set1_bits(0);
  for (int c = 0; c < kStrip; c += V::kLanes) {
    const typename V::F value = inverse > 0 ? V::mul(V::load(values + c), V::set1(inverse)) : V::zero();
    const typename V::Bits code = V::to_int(value);
    V::store_i8(row + strip * kStrip + c, code);
    sum = V::add_bits(sum, code);
  }
  const_cast<float*>(strip_scales(row, cols))[strip] = !finite       ? __builtin_nanf("")
                                                       : inverse > 0 ? largest / 127.0f
                                                                     : 0.0f;
  const_cast<int32_t*>(strip_sums(row, cols))[strip] = static_cast<int32_t>(V::sum(V::to_float(sum)));
}

// Writes columns [first, last) of a row of `cols` in operand form; `first` is at a strip, `last` at one or at the end.
// value(c, n) gives the vector at column c, of which n lanes count if n < kLanes.
template <class V, class Value>
WEFT_INLINE void store_columns(void* row, int first, int last, int cols, Operand operand, Value value) {
  if (operand == Operand::int8) {
    for (int c = first; c < last; c += kStrip) {
      alignas(64) float strip[kStrip] = {};
      for (int i = 0; i < kStrip && c + i < last; i += V::kLanes) {
        const int n = last - c - i;
        if (n >= V::kLanes) V::store(strip + i, value(c + i, n));
        else V::store_n(strip + i, value(c + i, n), n);
      }
      store_strip<V>(static_cast<int8_t*>(row), cols, c / kStrip, strip);
    }
    return;
  }
  for (int c = first; c < last; c += V::kLanes) store_operand<V>(row, c, operand, value(c, last - c), last - c);
  if (last == cols) end_row(row, cols, operand);
}

// Calls work(row, first column, last column) for this part of rows x cols, cut at multiples of 64 columns, so that one
// row of a wide op still occupies every thread.
template <class Work>
WEFT_INLINE void for_columns(int rows, int cols, Part part, Work work) {
  constexpr int kChunk = 64;
  const int64_t chunks = (cols + kChunk - 1) / kChunk;
  const Range range = share(rows * chunks, part);
  for (int64_t unit = range.first; unit < range.last;) {
    const int64_t row = unit / chunks, first = unit % chunks;
    const int64_t count = chunks - first < range.last - unit ? chunks - first : range.last - unit;
    const int64_t last = (first + count) * kChunk;
    work(row, static_cast<int>(first * kChunk), static_cast<int>(last < cols ? last : cols));
    unit += count;
  }
}

template <class V>
void compute(const ToOperandArgs& a, int rows, Part part) {
  for_columns(rows, a.cols, part, [&](int64_t r, int first, int last) {
    const float* x = a.x + r * a.ld_x;
    store_columns<V>(
        row_at(a.out, r * a.ld_out, a.operand), first, last, a.cols,
        a.operand, [&](int c, int n) __attribute__((always_inline)) { return load_upto<V>(x + c, n); });
  });
}

template <class V>
WEFT_INLINE typename V::F elements(Add, typename V::F a, typename V::F b) {
  return V::add(a, b);
}

template <class V>
WEFT_INLINE typename V::F elements(Scale f, typename V::F a) {
  return V::mul(a, V::set1(f.factor));
}

template <class V>
WEFT_INLINE typename V::F elements(SoftCap f, typename V::F a) {
  return soft_capped<V>(a, f.cap);
}

template <class V, IsElementwise F>
void compute(const ElementwiseArgs<F>& a, int rows, Part part) {
  for_columns(rows, a.cols, part, [&](int64_t r, int first, int last) {
    for (int c = first; c < last; c += V::kLanes) {
      const auto load = [&](const float* p) __attribute__((always_inline)) { return load_upto<V>(p + c, last - c); };
      const float *x = a.a + r * a.ld_a, *y = a.b + r * a.ld_b;
      typename V::F value;
      if constexpr (F::kInputs == 2) value = elements<V>(a.f, load(x), load(y));
      else value = elements<V>(a.f, load(x));
      store_operand<V>(a.out + r * a.ld_out, c, Operand::f32, value, last - c);
    }
  });
}

template <class V>
void compute(const SelectRowsArgs& a, int rows, Part part) {
  for_columns(rows, a.cols, part, [&](int64_t r, int first, int last) {
    const float* x = a.x + a.rows[r] * a.ld_x;
    for (int c = first; c < last; c += V::kLanes)
      store_operand<V>(a.out + r * a.ld_out, c, Operand::f32, load_upto<V>(x + c, last - c), last - c);
  });
}

template <class V, Activation act>
void activate_as(const ActivateArgs& a, int rows, Part part) {
  for_columns(rows * a.slots, a.cols, part, [&](int64_t r, int first, int last) {
    const float* x = a.x + r * a.ld_x;
    store_columns<V>(
        row_at(a.out, r * a.ld_out, a.operand), first, last, a.cols,
        a.operand, [&](int c, int n) __attribute__((always_inline)) {
          const typename V::F value = activated<V, act>(load_upto<V>(x + c, n));
          return a.gated ? V::mul(value, load_upto<V>(x + a.cols + c, n)) : value;
        });
  });
}

template <class Fn>
void with_activation(Activation act, Fn fn) {
  switch (act) {
    case Activation::silu: return fn.template operator()<Activation::silu>();
    case Activation::gelu_tanh: return fn.template operator()<Activation::gelu_tanh>();
    case Activation::gelu: return fn.template operator()<Activation::gelu>();
    case Activation::relu2: return fn.template operator()<Activation::relu2>();
    case Activation::relu: return fn.template operator()<Activation::relu>();
    case Activation::tanh: return fn.template operator()<Activation::tanh>();
    case Activation::quick_gelu: return fn.template operator()<Activation::quick_gelu>();
  }
}

template <class V>
void compute(const ActivateArgs& a, int rows, Part part) {
  with_activation(a.act, [&]<Activation act>() { activate_as<V, act>(a, rows, part); });
}

// Sum over a row of f(x) in four vectors of partial sums; f(0) of lanes past the end must be suppressed by the caller's
// f through its second argument, the number of valid lanes.
template <class V, class Term>
WEFT_INLINE float row_sum(const float* x, int cols, Term term) {
  typename V::F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int c = 0;
  for (; c + 4 * V::kLanes <= cols; c += 4 * V::kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] = V::add(sums[i], term(V::load(x + c + i * V::kLanes), V::kLanes));
  }
  for (; c < cols; c += V::kLanes) sums[0] = V::add(sums[0], term(load_upto<V>(x + c, cols - c), cols - c));
  return V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
}

// Squares of x - mean.
template <class V>
WEFT_INLINE float sum_of_squares(const float* x, int cols, float mean) {
  return row_sum<V>(x, cols, [mean](typename V::F value, int n) {
    typename V::F d = V::sub(value, V::set1(mean));
    if (n < V::kLanes) d = V::select(V::between(0, n), d, V::zero());
    return V::mul(d, d);
  });
}

template <class V>
WEFT_INLINE void write_norm(const NormArgs& a, int64_t r, float mean, float scale) {
  const float* x = a.x + r * a.ld_x;
  const auto value_at = [&](int c, int n) __attribute__((always_inline)) {
    typename V::F value = V::mul(V::sub(load_upto<V>(x + c, n), V::set1(mean)), V::set1(scale));
    if (a.weight) {
      const typename V::F weight = load_upto<V>(a.weight + c, n);
      value = V::mul(value, a.one_plus ? V::add(V::set1(1.0f), weight) : weight);
    }
    return a.bias ? V::add(value, load_upto<V>(a.bias + c, n)) : value;
  };
  store_columns<V>(row_at(a.out, r * a.ld_out, a.operand), 0, a.cols, a.cols, a.operand, value_at);
}

WEFT_INLINE float norm_scale(float squares, int count, float eps) {
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(count) + eps);
}

template <class V>
void rms_norm(const NormArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    write_norm<V>(a, r, 0.0f, norm_scale(sum_of_squares<V>(a.x + r * a.ld_x, a.cols, 0.0f), a.cols, a.eps));
  }
}

template <class V>
void layer_norm(const NormArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    const float* x = a.x + r * a.ld_x;
    const float mean =
        row_sum<V>(x, a.cols, [](typename V::F value, int) { return value; }) / static_cast<float>(a.cols);
    write_norm<V>(a, r, mean, norm_scale(sum_of_squares<V>(x, a.cols, mean), a.cols, a.eps));
  }
}

template <class V>
void compute(const NormArgs& a, int rows, Part part) {
  if (a.layer) layer_norm<V>(a, rows, part);
  else rms_norm<V>(a, rows, part);
}

template <class V>
WEFT_INLINE void norm_head(const HeadsArgs& a, float* x) {
  if (a.norm == HeadNorm::none) return;
  const typename V::F scale = V::set1(norm_scale(sum_of_squares<V>(x, a.dim, 0.0f), a.dim, a.eps));
  for (int d = 0; d < a.dim; d += V::kLanes) {
    const int n = a.dim - d;
    typename V::F value = V::mul(load_upto<V>(x + d, n), scale);
    if (a.norm != HeadNorm::l2) {
      const typename V::F weight = load_upto<V>(a.norm_weight + d, n);
      value = V::mul(value, a.norm == HeadNorm::rms_one_plus ? V::add(V::set1(1.0f), weight) : weight);
    }
    store_operand<V>(x, d, Operand::f32, value, n);
  }
}

template <class V>
WEFT_INLINE void rotate_halves(float* x, const float* angles, int half) {
  for (int i = 0; i < half; i += V::kLanes) {
    const int n = half - i;
    const typename V::F first = load_upto<V>(x + i, n), second = load_upto<V>(x + half + i, n);
    const typename V::F c = load_upto<V>(angles + i, n), s = load_upto<V>(angles + half + i, n);
    store_operand<V>(x, i, Operand::f32, V::sub(V::mul(first, c), V::mul(second, s)), n);
    store_operand<V>(x, half + i, Operand::f32, V::add(V::mul(second, c), V::mul(first, s)), n);
  }
}

[[maybe_unused]] static inline void rotate_pairs(float* x, const float* angles, int half) {
  for (int i = 0; i < half; ++i) {
    const float first = x[2 * i], second = x[2 * i + 1], c = angles[i], s = angles[half + i];
    x[2 * i] = first * c - second * s;
    x[2 * i + 1] = second * c + first * s;
  }
}

template <class V>
void compute(const HeadsArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.heads, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const int64_t r = unit / a.heads;
    float* x = a.out + r * a.ld_out + unit % a.heads * a.out_stride;
    const float* from = a.x + r * a.ld_x + unit % a.heads * a.stride;
    if (from != x)
      for (int d = 0; d < a.dim; d += V::kLanes)
        store_operand<V>(x, d, Operand::f32, load_upto<V>(from + d, a.dim - d), a.dim - d);
    if (!a.norm_after) norm_head<V>(a, x);
    if (a.angles && a.interleaved) rotate_pairs(x, a.angles + r * 2 * a.half, a.half);
    if (a.angles && !a.interleaved) rotate_halves<V>(x, a.angles + r * 2 * a.half, a.half);
    if (a.norm_after) norm_head<V>(a, x);
    if (a.floor_scale != 0) {
      const float position = static_cast<float>(a.positions[r]) + 1.0f;
      const float temperature = __builtin_log1pf(__builtin_floorf(position / a.floor_scale)) * a.attn_scale + 1.0f;
      for (int d = 0; d < a.dim; ++d) x[d] *= temperature;
    }
  }
}

template <class V>
void compute(const ScaleRowsArgs& a, int rows, Part part) {
  for_columns(rows * a.slots, a.cols, part, [&](int64_t unit, int first, int last) {
    const int64_t r = unit / a.slots, j = unit % a.slots;
    const typename V::F weight = V::set1(a.chosen[r * a.ld_chosen + a.slots + j]);
    void* out = row_at(a.out, r * a.ld_out + j * a.slot_stride, a.operand);
    for (int c = first; c < last; c += V::kLanes)
      store_operand<V>(out, c, a.operand, V::mul(load_upto<V>(a.x + r * a.ld_x + c, last - c), weight), last - c);
    if (last == a.cols) end_row(out, a.cols, a.operand);
  });
}

template <class V>
void compute(const CombineArgs& a, int rows, Part part) {
  const int group_size = a.experts / expert_groups(a.experts), first_group = a.first_expert / group_size,
            groups = (a.last_expert - a.first_expert) / group_size;
  for_columns(rows, a.cols, part, [&](int64_t r, int first, int last) {
    const float* weights = a.chosen + r * a.ld_chosen + a.slots;
    const int32_t* ids = reinterpret_cast<const int32_t*>(a.chosen + r * a.ld_chosen);
    int group_of[kMaxChosen];  // -1: another rank's
    for (int j = 0; j < a.slots; ++j)
      group_of[j] = ids[j] < a.first_expert || ids[j] >= a.last_expert ? -1 : ids[j] / group_size - first_group;
    for (int c = first; c < last; c += V::kLanes) {
      const float* x = a.x + r * a.ld_x + c;
      typename V::F sums[8];
      for (int g = 0; g < groups; ++g) sums[g] = V::set1(0.0f);
      for (int j = 0; j < a.slots; ++j) {
        if (group_of[j] < 0) continue;
        typename V::F& sum = sums[group_of[j]];
        sum = V::fma(V::set1(a.weighted ? weights[j] : 1.0f),
                     load_upto<V>(x + static_cast<int64_t>(j) * a.slot_stride, last - c), sum);
      }
      for (int step = 1; step < groups; step *= 2)
        for (int g = 0; g < groups; g += 2 * step) sums[g] = V::add(sums[g], sums[g + step]);
      store_operand<V>(a.out + r * a.ld_out, c, Operand::f32, sums[0], last - c);
    }
  });
}

template <class V>
void compute(const ReduceArgs& a, int rows, Part part) {
  for_columns(rows, a.cols, part, [&](int64_t r, int first, int last) {
    for (int c = first; c < last; c += V::kLanes) {
      typename V::F sums[kMaxRanks];
      for (int p = 0; p < a.count; ++p) sums[p] = load_upto<V>(a.parts[p] + r * a.ld_part + c, last - c);
      for (int step = 1; step < a.count; step *= 2)
        for (int p = 0; p < a.count; p += 2 * step) sums[p] = V::add(sums[p], sums[p + step]);
      typename V::F sum = sums[0];
      if (a.bias) sum = V::add(sum, load_upto<V>(a.bias + c, last - c));
      if (a.residual) sum = V::add(sum, load_upto<V>(a.residual + r * a.ld_residual + c, last - c));
      store_operand<V>(a.out + r * a.ld_out, c, Operand::f32, sum, last - c);
    }
  });
}

}  // namespace
}  // namespace weft::kernels
