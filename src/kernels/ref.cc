// The reference table: scalar loops that say what each op computes. Slow, and the yardstick of every other table.
#include "kernels/ref.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "kernels/layout.h"
#include "kernels/pack.h"
#include "kernels/quantized_layout.h"

namespace weft::kernels {

void ref_store(void* out, int64_t index, Operand operand, float value) {
  switch (operand) {
    case Operand::f32: static_cast<float*>(out)[index] = value; break;
    case Operand::f32_as_bf16: static_cast<float*>(out)[index] = bf16_to_float(float_to_bf16(value)); break;
    case Operand::bf16: static_cast<uint16_t*>(out)[index] = float_to_bf16(value); break;
    case Operand::int8: WEFT_CHECK(false) << "int8 rows are written strip by strip"; break;
  }
}

void ref_end_row(void* out, int64_t row_index, int cols, Operand operand) {
  if (operand == Operand::bf16 && cols % 2 != 0) static_cast<uint16_t*>(out)[row_index + cols] = 0;
}

float ref_activated(Activation act, float x) {
  switch (act) {
    case Activation::silu: return x / (1.0f + std::exp(-x));
    case Activation::gelu_tanh: return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    case Activation::gelu: return 0.5f * x * std::erfc(-x * 0.7071067812f);
    case Activation::relu2: return x < 0 ? 0.0f : x * x;
    case Activation::relu: return x < 0 ? 0.0f : x;
    case Activation::tanh: return std::tanh(x);
    case Activation::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
  }
  return x;
}

float ref_int8_codes(const float* x, int count, int8_t* codes, int64_t stride) {
  constexpr int32_t kInfinity = 0x7f800000;
  int32_t largest_bits = 0;  // of a magnitude; not finite from kInfinity on
  for (int i = 0; i < count; ++i) largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & INT32_MAX);
  const float largest = std::bit_cast<float>(largest_bits);
  if (largest_bits >= kInfinity || largest <= kSmallestStrip) {
    for (int i = 0; i < count; ++i) codes[i * stride] = 0;
    return largest_bits >= kInfinity ? NAN : 0.0f;
  }
  // The sum has no room for a fraction, so it rounds to the nearest whole number, ties to even.
  constexpr float kWhole = 0x1.8p23f;
  const float inverse = 127.0f / largest;
  for (int i = 0; i < count; ++i)
    codes[i * stride] = static_cast<int8_t>(static_cast<int32_t>((x[i] * inverse + kWhole) - kWhole));
  return largest / 127.0f;
}

namespace {

// Writes one row in operand form, column after column.
class RowWriter {
 public:
  RowWriter(void* out, int64_t first, Operand operand, int cols)
      : out_(out), first_(first), cols_(cols), operand_(operand) {}
  void put(int column, float value) {
    if (operand_ != Operand::int8) {
      ref_store(out_, first_ + column, operand_, value);
      if (column + 1 == cols_) ref_end_row(out_, first_, cols_, operand_);
      return;
    }
    strip_[column % kStrip] = value;
    if (column % kStrip == kStrip - 1 || column + 1 == cols_) finish_strip(column / kStrip, column % kStrip + 1);
  }

 private:
  void finish_strip(int strip, int count) {
    int8_t* row = static_cast<int8_t*>(out_) + first_;
    int8_t* codes = row + strip * kStrip;
    const_cast<float*>(strip_scales(row, cols_))[strip] = ref_int8_codes(strip_, count, codes, 1);
    std::fill(codes + count, codes + kStrip, int8_t{0});
    const int32_t sum = std::accumulate(codes, codes + kStrip, 0);
    const_cast<int32_t*>(strip_sums(row, cols_))[strip] = sum;
  }

  void* out_;
  int64_t first_;
  int cols_;
  Operand operand_;
  float strip_[kStrip] = {};
};

constexpr int kPanel = 16;

Operand operand(WeightForm form) { return form == WeightForm::f32 ? Operand::f32 : Operand::f32_as_bf16; }
int panel_cols(WeightForm) { return kPanel; }
size_t panel_bytes(WeightForm form, int k) { return packed_panel_bytes(form, kPanel, k); }
void pack_panel(WeightForm form, const float* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  pack_panel_f32(form, kPanel, rows, ld, row_count, k, panel);
}
void pack_bf16(const uint16_t* rows, int64_t ld, int row_count, int k, std::byte* panel) {
  pack_panel_bf16(kPanel, rows, ld, row_count, k, panel);
}

float row_element(const EmbedArgs& a, int32_t id, int column) {
  if (!a.row_data) return ref_weight(a.packed, id, column);
  const int64_t index = static_cast<int64_t>(id) * a.cols + column;
  switch (a.row_type) {
    case DType::bf16: return bf16_to_float(static_cast<const uint16_t*>(a.row_data)[index]);
    case DType::f16: return f16_to_float(static_cast<const uint16_t*>(a.row_data)[index]);
    default: return static_cast<const float*>(a.row_data)[index];
  }
}

void reference(const EmbedArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    float* out = a.out + r * a.ld_out;
    const int32_t id = a.ids[r] - a.first_id;
    if (a.ids[r] < 0 || id < 0 || (a.id_count > 0 && id >= a.id_count)) {
      std::fill_n(out, a.cols, 0.0f);
      continue;
    }
    if (!a.row_data && (is_quantized(a.packed.form) || a.packed.form == WeightForm::bf12)) {
      packed_row(a.packed, id, out);
      for (int c = 0; c < a.cols; ++c) out[c] *= a.scale;
      continue;
    }
    for (int c = 0; c < a.cols; ++c) out[c] = row_element(a, id, c) * a.scale;
  }
}

void reference(const ToOperandArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    RowWriter row(a.out, r * a.ld_out, a.operand, a.cols);
    for (int c = 0; c < a.cols; ++c) row.put(c, a.x[r * a.ld_x + c]);
  }
}

void write_norm(const NormArgs& a, int64_t r, float mean, float scale) {
  RowWriter row(a.out, r * a.ld_out, a.operand, a.cols);
  for (int c = 0; c < a.cols; ++c) {
    float value = (a.x[r * a.ld_x + c] - mean) * scale;
    if (a.weight) value *= a.one_plus ? 1.0f + a.weight[c] : a.weight[c];
    if (a.bias) value += a.bias[c];
    row.put(c, value);
  }
}

void rms_norm(const NormArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    float squares = 0;
    for (int c = 0; c < a.cols; ++c) squares += a.x[r * a.ld_x + c] * a.x[r * a.ld_x + c];
    write_norm(a, r, 0.0f, 1.0f / std::sqrt(squares / static_cast<float>(a.cols) + a.eps));
  }
}

void layer_norm(const NormArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    float sum = 0, squares = 0;
    for (int c = 0; c < a.cols; ++c) sum += a.x[r * a.ld_x + c];
    const float mean = sum / static_cast<float>(a.cols);
    for (int c = 0; c < a.cols; ++c) squares += (a.x[r * a.ld_x + c] - mean) * (a.x[r * a.ld_x + c] - mean);
    write_norm(a, r, mean, 1.0f / std::sqrt(squares / static_cast<float>(a.cols) + a.eps));
  }
}

void reference(const NormArgs& a, int rows, Part part) {
  if (a.layer) layer_norm(a, rows, part);
  else rms_norm(a, rows, part);
}

void reference(const RopeAnglesArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    for (int i = 0; i < a.half; ++i) {
      const int axis = a.axis_of ? a.axis_of[i] : 0;
      const float angle = static_cast<float>(a.positions[axis * a.ld_positions + r]) * a.inv_freq[i];
      a.out[r * 2 * a.half + i] = std::cos(angle) * a.factor;
      a.out[r * 2 * a.half + a.half + i] = std::sin(angle) * a.factor;
    }
  }
}

void norm_head(const HeadsArgs& a, float* x) {
  if (a.norm == HeadNorm::none) return;
  float squares = 0;
  for (int d = 0; d < a.dim; ++d) squares += x[d] * x[d];
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(a.dim) + a.eps);
  for (int d = 0; d < a.dim; ++d) {
    x[d] *= scale;
    if (a.norm == HeadNorm::rms) x[d] *= a.norm_weight[d];
    if (a.norm == HeadNorm::rms_one_plus) x[d] *= 1.0f + a.norm_weight[d];
  }
}

void rotate_head(const HeadsArgs& a, const float* angles, float* x) {
  for (int i = 0; i < a.half; ++i) {
    float& first = x[a.interleaved ? 2 * i : i];
    float& second = x[a.interleaved ? 2 * i + 1 : a.half + i];
    const float c = angles[i], s = angles[a.half + i];
    const float rotated = first * c - second * s;
    second = second * c + first * s;
    first = rotated;
  }
}

void reference(const HeadsArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.heads, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const int64_t r = unit / a.heads, head = unit % a.heads;
    float* x = a.out + r * a.ld_out + head * a.out_stride;
    const float* from = a.x + r * a.ld_x + head * a.stride;
    if (from != x) std::copy_n(from, a.dim, x);
    if (!a.norm_after) norm_head(a, x);
    if (a.angles) rotate_head(a, a.angles + r * 2 * a.half, x);
    if (a.norm_after) norm_head(a, x);
    if (a.floor_scale != 0) {
      const float position = static_cast<float>(a.positions[r]) + 1.0f;
      const float temperature = std::log1p(std::floor(position / a.floor_scale)) * a.attn_scale + 1.0f;
      for (int d = 0; d < a.dim; ++d) x[d] *= temperature;
    }
  }
}

void reference(const ActivateArgs& a, int rows, Part part) {
  const Range range = share(int64_t{rows} * a.slots, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    const float* x = a.x + r * a.ld_x;
    RowWriter row(a.out, r * a.ld_out, a.operand, a.cols);
    for (int c = 0; c < a.cols; ++c) {
      const float value = ref_activated(a.act, x[c]);
      row.put(c, a.gated ? value * x[a.cols + c] : value);
    }
  }
}

float element(Add, float a, float b) { return a + b; }
float element(Scale f, float a) { return a * f.factor; }
float element(SoftCap f, float a) { return f.cap * std::tanh(a / f.cap); }

template <class F>
void reference(const ElementwiseArgs<F>& args, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    const float *a = args.a + r * args.ld_a, *b = args.b + r * args.ld_b;
    for (int c = 0; c < args.cols; ++c) {
      float& out = args.out[r * args.ld_out + c];
      if constexpr (F::kInputs == 2) out = element(args.f, a[c], b[c]);
      else out = element(args.f, a[c]);
    }
  }
}

void reference(const SelectRowsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    std::copy_n(a.x + a.rows[r] * a.ld_x, a.cols, a.out + r * a.ld_out);
  }
}

void reference(const MixRowsArgs& a, int rows, Part part) {
  const Range range = share(static_cast<int64_t>(rows) * a.parts, part);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    float* out = a.out + unit / a.parts * a.ld_out + unit % a.parts * a.cols;
    const int32_t first = a.offsets[unit], last = a.offsets[unit + 1];
    std::fill_n(out, a.cols, 0.0f);
    for (int32_t i = first; i < last; ++i)
      for (int c = 0; c < a.cols; ++c) out[c] += a.x[a.entries[i] * a.ld_x + c];
    if (last - first > 1)
      for (int c = 0; c < a.cols; ++c) out[c] /= static_cast<float>(last - first);
  }
}

void reference(const MergeRowsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r)
    if (a.rows[r]) std::copy_n(a.rows[r], a.cols, a.out + r * a.ld_out);
}

void reference(const GateArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  const float opened = std::tanh(*a.gate), factor = a.complement ? 1.0f - opened : opened;
  for (int64_t r = range.first; r < range.last; ++r) {
    // Closed rows may hold anything, NaN too.
    const bool open = !a.flags || (a.flags[r] & a.bit) != 0;
    for (int c = 0; c < a.cols; ++c) a.out[r * a.ld_out + c] = open ? a.x[r * a.ld_x + c] * factor : 0.0f;
  }
}

void reference(const PlaceArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r)
    for (int c = 0; c < a.cols; ++c) a.out[r * a.ld_out + static_cast<int64_t>(c) * a.step] = a.x[r * a.ld_x + c];
}

}  // namespace

const CpuTable& ref_table() {
  static const CpuTable table = [] {
    CpuTable filled = {
        .isa = "ref",
        .operand = operand,
        .panel_cols = panel_cols,
        .panel_bytes = panel_bytes,
        .pack_panel = pack_panel,
        .pack_panel_bf16 = pack_bf16,
        .quantized_panel_bytes = [](WeightForm form, WeightGroups groups,
                                    int k) { return quantized_panel_bytes(form, groups, kPanel, k); },
        .pack_panel_quantized = [](WeightForm form, WeightGroups groups, const QuantizedRows& rows,
                                   std::byte* panel) { pack_quantized(form, groups, kPanel, rows, panel); },
        .attend_scratch_bytes = ref_attend_scratch_bytes,
        .kernels = {},
    };
    for_each_type(Kernels{}, [&]<class Args>() {
      filled.kernel<Args>() = [](const Args& args, int rows, Part part) { reference(args, rows, part); };
    });
    return filled;
  }();
  return table;
}

}  // namespace weft::kernels
