// The reference table: scalar loops that say what each op computes. Slow, and the yardstick of every other table.
#include "kernels/ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/layout.h"
#include "kernels/pack.h"

namespace weft::kernels {

void ref_store(void* out, int64_t index, Operand operand, float value) {
  switch (operand) {
    case Operand::f32: static_cast<float*>(out)[index] = value; break;
    case Operand::f32_as_bf16: static_cast<float*>(out)[index] = bf16_to_float(float_to_bf16(value)); break;
    case Operand::bf16: static_cast<uint16_t*>(out)[index] = float_to_bf16(value); break;
  }
}

void ref_end_row(void* out, int64_t row_index, int cols, Operand operand) {
  if (operand == Operand::bf16 && cols % 2 != 0) static_cast<uint16_t*>(out)[row_index + cols] = 0;
}

namespace {

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

float weight_at(const PackedMatrix& w, int column, int k) {
  const std::byte* panel = w.data + static_cast<size_t>(column / w.panel) * w.panel_bytes;
  const size_t index = packed_index(w.form, w.panel, column % w.panel, k);
  return w.form == WeightForm::f32 ? reinterpret_cast<const float*>(panel)[index]
                                   : bf16_to_float(reinterpret_cast<const uint16_t*>(panel)[index]);
}

float row_element(const EmbedArgs& a, int32_t id, int column) {
  if (!a.row_data) return weight_at(a.packed, id, column);
  const int64_t index = static_cast<int64_t>(id) * a.cols + column;
  switch (a.row_type) {
    case DType::bf16: return bf16_to_float(static_cast<const uint16_t*>(a.row_data)[index]);
    case DType::f16: return f16_to_float(static_cast<const uint16_t*>(a.row_data)[index]);
    default: return static_cast<const float*>(a.row_data)[index];
  }
}

void embed(const EmbedArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    for (int c = 0; c < a.cols; ++c) a.out[r * a.ld_out + c] = a.ids[r] < 0 ? 0.0f : row_element(a, a.ids[r], c) * a.scale;
  }
}

// The sum of shards [first, first + count) of one output, as a balanced binary tree.
float shard_sum(const float* x, const PackedMatrix& w, int column, int first, int count) {
  if (count > 1) return shard_sum(x, w, column, first, count / 2) + shard_sum(x, w, column, first + count / 2, count / 2);
  const int length = w.k / w.shards;
  float sum = 0;
  for (int k = first * length; k < (first + 1) * length; ++k) sum = std::fma(x[k], weight_at(w, column, k), sum);
  return sum;
}

void linear(const LinearArgs& a, int rows, Part part) {
  const Range columns = share(a.w.out, part);
  for (int r = 0; r < rows; ++r) {
    const int64_t y_row = a.row_map ? a.row_map[r] : r;
    const float* x = static_cast<const float*>(a.x) + (a.row_map ? y_row / a.x_share : r) * a.ld_x;
    for (int64_t n = columns.first; n < columns.last; ++n) {
      float sum = shard_sum(x, a.w, static_cast<int>(n), 0, a.w.shards);
      if (a.bias) sum += a.bias[n];
      if (a.residual) sum += a.residual[y_row * a.ld_residual + n];
      a.y[y_row * a.ld_y + n] = sum;
    }
  }
}

void to_operand(const ToOperandArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    for (int c = 0; c < a.cols; ++c) ref_store(a.out, r * a.ld_out + c, a.operand, a.x[r * a.ld_x + c]);
    ref_end_row(a.out, r * a.ld_out, a.cols, a.operand);
  }
}

void write_norm(const NormArgs& a, int64_t r, float mean, float scale) {
  for (int c = 0; c < a.cols; ++c) {
    float value = (a.x[r * a.ld_x + c] - mean) * scale;
    if (a.weight) value *= a.one_plus ? 1.0f + a.weight[c] : a.weight[c];
    if (a.bias) value += a.bias[c];
    ref_store(a.out, r * a.ld_out + c, a.operand, value);
  }
  ref_end_row(a.out, r * a.ld_out, a.cols, a.operand);
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

void rope_angles(const RopeAnglesArgs& a, int rows, Part part) {
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

void heads(const HeadsArgs& a, int rows, Part part) {
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

float activated(Activation act, float x) {
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

void activate(const ActivateArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    const float* x = a.x + r * a.ld_x;
    for (int c = 0; c < a.cols; ++c) {
      const float value = activated(a.act, x[c]);
      ref_store(a.out, r * a.ld_out + c, a.operand, a.gated ? value * x[a.cols + c] : value);
    }
    ref_end_row(a.out, r * a.ld_out, a.cols, a.operand);
  }
}

void add(const AddArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    for (int c = 0; c < a.cols; ++c) a.out[r * a.ld_out + c] = a.a[r * a.ld_a + c] + a.b[r * a.ld_b + c];
  }
}

void select_rows(const SelectRowsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r) {
    std::copy_n(a.x + a.rows[r] * a.ld_x, a.cols, a.out + r * a.ld_out);
  }
}

void mix_rows(const MixRowsArgs& a, int rows, Part part) {
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

void merge_rows(const MergeRowsArgs& a, int rows, Part part) {
  const Range range = share(rows, part);
  for (int64_t r = range.first; r < range.last; ++r)
    if (a.rows[r]) std::copy_n(a.rows[r], a.cols, a.out + r * a.ld_out);
}

}  // namespace

const CpuTable& ref_table() {
  static const CpuTable table = {
      .isa = "ref",
      .operand = operand,
      .panel_cols = panel_cols,
      .panel_bytes = panel_bytes,
      .pack_panel = pack_panel,
      .pack_panel_bf16 = pack_bf16,
      .embed = embed,
      .linear = linear,
      .to_operand = to_operand,
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .rope_angles = rope_angles,
      .heads = heads,
      .append = ref_append,
      .attend = ref_attend,
      .attend_combine = ref_attend_combine,
      .attend_scratch_bytes = ref_attend_scratch_bytes,
      .activate = activate,
      .add = add,
      .select_rows = select_rows,
      .mix_rows = mix_rows,
      .merge_rows = merge_rows,
      .route = ref_route,
      .group_rows = ref_group_rows,
      .scale_rows = ref_scale_rows,
      .combine = ref_combine,
  };
  return table;
}

}  // namespace weft::kernels
