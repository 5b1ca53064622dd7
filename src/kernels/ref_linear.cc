// The reference matrix product: every form of weights, every form of rows, one product after the other.
#include <cmath>

#include "kernels/layout.h"
#include "kernels/pack.h"
#include "kernels/quantized_layout.h"
#include "kernels/ref.h"

namespace weft::kernels {

float ref_weight(const PackedMatrix& w, int column, int k) {
  if (is_quantized(w.form)) return packed_value(w, column, k);
  if (w.form == WeightForm::bf12) return bf12_value(w, column, k);
  const std::byte* panel = w.data + static_cast<size_t>(column / w.panel) * w.panel_bytes;
  const size_t index = packed_index(w.form, w.panel, column % w.panel, k);
  return w.form == WeightForm::f32 ? reinterpret_cast<const float*>(panel)[index]
                                   : bf16_to_float(reinterpret_cast<const uint16_t*>(panel)[index]);
}

namespace {

bool reads_int8(const PackedMatrix& w) { return is_quantized(w.form) && w.operand == Operand::int8; }

float float_sum(const float* x, const PackedMatrix& w, int column, int first, int last) {
  float sum = 0;
  for (int k = first; k < last; ++k) sum = std::fma(x[k], ref_weight(w, column, k), sum);
  return sum;
}

// Integer sums of whole strips, then sum += integer * (row scale * weight scale).
float int8_sum(const int8_t* x, const PackedMatrix& w, int column, int first, int last) {
  float sum = 0;
  for (int k = first; k < last; k += kStrip) {
    int32_t integer = 0;
    for (int i = k; i < k + kStrip && i < last; ++i)
      integer += x[i] * (packed_code(w, column, i) - code_center(w.form));
    sum =
        std::fma(static_cast<float>(integer), packed_group(w, column, k).scale * strip_scales(x, w.k)[k / kStrip], sum);
  }
  return sum;
}

// The sum of shards [first, first + count) of one output, as a balanced binary tree.
float shard_sum(const LinearArgs& a, int64_t row, int column, int first, int count) {
  if (count > 1)
    return shard_sum(a, row, column, first, count / 2) + shard_sum(a, row, column, first + count / 2, count / 2);
  const int length = a.w.k / a.w.shards, begin = first * length;
  if (reads_int8(a.w))
    return int8_sum(static_cast<const int8_t*>(a.x) + row * a.ld_x, a.w, column, begin, begin + length);
  return float_sum(static_cast<const float*>(a.x) + row * a.ld_x, a.w, column, begin, begin + length);
}

float biased_sum(const LinearArgs& a, int64_t row, int column) {
  const float sum = shard_sum(a, row, column, 0, a.w.shards);
  return a.bias ? sum + a.bias[column] : sum;
}

// Columns `range` of act(gate) * other.
void gated_row(const LinearArgs& a, int64_t x_row, int64_t y_row, Range range) {
  for (auto n = static_cast<int>(range.first); n < range.last; ++n) {
    const int gate = n / kGateColumns * 2 * kGateColumns + n % kGateColumns;
    const float value =
        ref_activated(a.gate.act, biased_sum(a, x_row, gate)) * biased_sum(a, x_row, gate + kGateColumns);
    ref_store(a.gate.out, y_row * a.gate.ld_out + n, a.gate.operand, value);
  }
}

}  // namespace

void reference(const LinearArgs& a, int rows, Part part) {
  const Range columns = share(a.w.out, part);
  for (int r = 0; r < rows; ++r) {
    const int64_t y_row = a.row_map ? a.row_map[r] : r, x_row = a.row_map ? y_row / a.x_share : r;
    if (a.gate.out) {
      gated_row(a, x_row, y_row, share(a.w.out / 2, part));
      continue;
    }
    for (int64_t n = columns.first; n < columns.last; ++n) {
      float sum = biased_sum(a, x_row, static_cast<int>(n));
      if (a.residual) sum += a.residual[y_row * a.ld_residual + n];
      a.y[y_row * a.ld_y + (a.half > 0 ? column_apart(n, a.half) : n)] = sum;
    }
  }
}

}  // namespace weft::kernels
