// Packing of quantised rows into panels, and the value of a packed element.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/pack.h"
#include "kernels/quantized_layout.h"
#include "kernels/transpose.h"

namespace weft::kernels {
namespace {

template <class T>
T load_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

uint32_t load_codes(const uint8_t* at) {
  uint32_t four;
  std::memcpy(&four, at, sizeof four);
  return four;
}

constexpr int words_of_strip(WeightForm form) { return has_nibbles(form) ? 4 : form == WeightForm::int6 ? 6 : 8; }

// The words of a column's strip in the order in which the panel holds them (quantized_layout.h), from its 32 codes.
void strip_words(WeightForm form, const uint8_t* codes, uint32_t* words) {
  if (!has_nibbles(form) && form != WeightForm::int6) {
    std::memcpy(words, codes, kStrip);
    return;
  }
  for (int i = 0; i < 4; ++i)
    words[i] = (load_codes(codes + 8 * i) & 0x0f0f0f0fu) | (load_codes(codes + 8 * i + 4) & 0x0f0f0f0fu) << 4;
  if (has_nibbles(form)) return;
  for (int h = 0; h < 2; ++h) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word |= (load_codes(codes + 16 * h + 4 * i) >> 4 & 0x03030303u) << (2 * i);
    words[4 + h] = word;
  }
}

// Some strips of four columns at a time.
void pack_codes(WeightForm form, int columns, const QuantizedRows& rows, std::byte* panel) {
  constexpr int kRows = 4, kStrips = 8;
  const int strips = static_cast<int>(strip_count(rows.k)), per_strip = words_of_strip(form);
  uint32_t words[kRows][kStrips * 8];
  for (int first = 0; first < strips; first += kStrips) {
    const int count = std::min(kStrips, strips - first);
    for (int column = 0; column < rows.rows; column += kRows) {
      const int used = std::min(kRows, rows.rows - column);
      for (int r = 0; r < used; ++r)
        for (int s = 0; s < count; ++s) {
          const int k = (first + s) * kStrip;
          const uint8_t* codes = rows.codes + static_cast<int64_t>(column + r) * rows.k + k;
          uint8_t padded[kStrip] = {};
          if (k + kStrip > rows.k)
            codes = static_cast<const uint8_t*>(std::memcpy(padded, codes, static_cast<size_t>(rows.k - k)));
          strip_words(form, codes, &words[r][s * per_strip]);
        }
      std::byte* to =
          panel +
          (static_cast<size_t>(first) * static_cast<size_t>(per_strip * columns) + static_cast<size_t>(column)) * 4;
      transpose_words(reinterpret_cast<const std::byte*>(words), sizeof words[0], used, count * per_strip, columns, to);
    }
  }
}

// Turns [rows][count] elements into [count][columns].
template <class T, class Convert>
void pack_groups(const void* source, int rows, int count, int columns, std::byte* out, Convert convert) {
  const T* from = static_cast<const T*>(source);
  T* to = reinterpret_cast<T*>(out);
  for (int row = 0; row < rows; ++row)
    for (int i = 0; i < count; ++i)
      to[static_cast<size_t>(i) * columns + row] = convert(from[static_cast<size_t>(row) * count + i], row, i);
}

// A group of fp8 with NaN among its codes gets a scale of NaN: its sum is NaN either way.
bool has_nan(const QuantizedRows& rows, int size, int row, int group) {
  const uint8_t* codes = rows.codes + static_cast<int64_t>(row) * rows.k;
  const int last = std::min(rows.k, (group + 1) * size);
  return std::any_of(codes + group * size, codes + last, [](uint8_t code) { return (code & 0x7f) == 0x7f; });
}

}  // namespace

const char* name(WeightForm form) {
  static const char* const names[] = {"float32", "bfloat16", "bfloat16 in 12 bits", "fp8", "int8", "int4",
                                      "int6",    "fp4"};
  static_assert(std::size(names) == static_cast<size_t>(WeightForm::fp4) + 1);
  return names[static_cast<int>(form)];
}

const float* levels_of(CodeLevels levels) {
  // Sign, two bits of exponent, one of mantissa.
  alignas(64) static constexpr float kE2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                                  -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  // Quantiles of a normal distribution (QLoRA, arXiv 2305.14314, appendix E).
  alignas(64) static constexpr float kNf4[16] = {-1.0f,
                                                 -0.6961928009986877f,
                                                 -0.5250730514526367f,
                                                 -0.39491748809814453f,
                                                 -0.28444138169288635f,
                                                 -0.18477343022823334f,
                                                 -0.09105003625154495f,
                                                 0.0f,
                                                 0.07958029955625534f,
                                                 0.16093020141124725f,
                                                 0.24611230194568634f,
                                                 0.33791524171829224f,
                                                 0.44070982933044434f,
                                                 0.5626170039176941f,
                                                 0.7229568362236023f,
                                                 1.0f};
  // bitsandbytes' fp4, divided by its largest value, 12.
  alignas(64) static constexpr float kBnbFp4[16] = {
      0.0f,  0.0625f / 12,  8.0f / 12,  12.0f / 12,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
      -0.0f, -0.0625f / 12, -8.0f / 12, -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};
  return levels == CodeLevels::e2m1 ? kE2m1 : levels == CodeLevels::nf4 ? kNf4 : kBnbFp4;
}

void pack_quantized(WeightForm form, const WeightGroups& g, int columns, const QuantizedRows& rows, std::byte* panel) {
  const QuantizedLayout l = quantized_layout(form, g, columns, rows.k);
  std::memset(panel, 0, l.bytes);
  pack_codes(form, columns, rows, panel);
  const auto same = [](auto value, int, int) { return value; };
  const bool super = g.scale == ScaleKind::super;
  const int scale_rows = super ? l.supers : l.groups;
  if (g.scale == ScaleKind::f32) {
    pack_groups<float>(rows.scales, rows.rows, scale_rows, columns, panel + l.scales,
                       [&](float scale, int row, int group) {
                         if (form != WeightForm::fp8) return scale;
                         return has_nan(rows, g.size, row, group) ? __builtin_nanf("") : scale * kFp8Scale;
                       });
  } else {
    pack_groups<uint16_t>(rows.scales, rows.rows, scale_rows, columns, panel + l.scales, same);
  }
  if (g.offset == OffsetKind::zero)
    pack_groups<uint8_t>(rows.offsets, rows.rows, scale_rows, columns, panel + l.offsets, same);
  if (g.offset == OffsetKind::minimum)
    pack_groups<uint16_t>(rows.offsets, rows.rows, scale_rows, columns, panel + l.offsets, same);
  if (!super) return;
  pack_groups<uint8_t>(rows.factors, rows.rows, l.groups, columns, panel + l.factors, same);
  if (g.offset == OffsetKind::minimum)
    pack_groups<uint8_t>(rows.offset_factors, rows.rows, l.groups, columns, panel + l.offset_factors, same);
}

size_t quantized_panel_bytes(WeightForm form, const WeightGroups& groups, int columns, int k) {
  return quantized_layout(form, groups, columns, k).bytes;
}

int64_t format_bytes(const WeightFormat& format, int64_t out, int k) {
  if (format.form == WeightForm::bf12) return out * k * 3 / 2;
  if (!is_quantized(format.form)) return out * k * (format.form == WeightForm::bf16 ? 2 : 4);
  // The parts of a panel of 64 columns need no rounding.
  return out * static_cast<int64_t>(quantized_layout(format.form, format.groups, 64, k).bytes / 64);
}

namespace {

// Where a packed column's codes and groups are.
struct Column {
  const PackedMatrix& w;
  QuantizedLayout layout;
  const std::byte* panel;
  int column;

  Column(const PackedMatrix& matrix, int index)
      : w(matrix), layout(quantized_layout(w.form, w.groups, w.panel, w.k)),
        panel(w.data + static_cast<size_t>(index / w.panel) * w.panel_bytes), column(index % w.panel) {}

  int code(int k) const {
    const CodePlace place = code_place(w.form, w.panel, column, k);
    const int byte = static_cast<int>(panel[place.byte]);
    if (w.form == WeightForm::int8) return static_cast<int8_t>(byte);
    if (w.form == WeightForm::fp8) return byte;
    const int low = place.high_nibble ? byte >> 4 : byte & 15;
    if (has_nibbles(w.form)) return low;
    const HighPlace high = high_place(w.panel, column, k);
    return low | (static_cast<int>(panel[high.byte]) >> high.bit & 3) << 4;
  }

  GroupValues group(int k) const {
    const bool super = w.groups.scale == ScaleKind::super;
    const size_t columns = static_cast<size_t>(w.panel), in_panel = static_cast<size_t>(column);
    const size_t group = static_cast<size_t>(k / w.groups.size) * columns + in_panel;
    const size_t at = super ? static_cast<size_t>(k / kSuper) * columns + in_panel : group;
    const auto half = [&](size_t begin) { return load_as<uint16_t>(panel + begin + at * 2); };
    const auto byte = [&](size_t begin) { return load_as<uint8_t>(panel + begin + group); };
    GroupValues v;
    v.offset = static_cast<float>(code_center(w.form));
    switch (w.groups.scale) {
      case ScaleKind::f32: v.scale = load_as<float>(panel + layout.scales + at * 4); break;
      case ScaleKind::bf16: v.scale = bf16_to_float(half(layout.scales)); break;
      case ScaleKind::f16: v.scale = f16_to_float(half(layout.scales)); break;
      case ScaleKind::super:
        v.scale = f16_to_float(half(layout.scales)) * static_cast<float>(w.form == WeightForm::int6
                                                                             ? static_cast<int8_t>(byte(layout.factors))
                                                                             : byte(layout.factors));
        break;
    }
    if (w.groups.offset == OffsetKind::zero) v.offset = static_cast<float>(byte(layout.offsets));
    if (w.groups.offset == OffsetKind::minimum) {
      v.offset = f16_to_float(half(layout.offsets));
      if (super) v.offset = -(v.offset * static_cast<float>(byte(layout.offset_factors)));
    }
    return v;
  }

  float value(int k, const GroupValues& group) const {
    const int code = this->code(k);
    if (w.form == WeightForm::fp8) {
      const uint32_t bits = static_cast<uint32_t>(code & 0x80) << 24 | static_cast<uint32_t>(code & 0x7f) << 20;
      return std::bit_cast<float>(bits) * group.scale;
    }
    if (w.form == WeightForm::fp4) return levels_of(w.groups.levels)[code] * group.scale;
    if (w.groups.offset == OffsetKind::minimum) return static_cast<float>(code) * group.scale + group.offset;
    return (static_cast<float>(code) - group.offset) * group.scale;
  }
};

}  // namespace

int packed_code(const PackedMatrix& w, int column, int k) { return Column(w, column).code(k); }
GroupValues packed_group(const PackedMatrix& w, int column, int k) { return Column(w, column).group(k); }

float packed_value(const PackedMatrix& w, int column, int k) {
  const Column c(w, column);
  return c.value(k, c.group(k));
}

void packed_row(const PackedMatrix& w, int column, float* out) {
  if (w.form == WeightForm::bf12) return bf12_row(w, column, out);
  const Column c(w, column);
  for (int first = 0; first < w.k; first += w.groups.size) {
    const GroupValues group = c.group(first);
    for (int k = first; k < first + w.groups.size && k < w.k; ++k) out[k] = c.value(k, group);
  }
}

}  // namespace weft::kernels
