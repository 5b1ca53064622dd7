// Products with quantised weights: each form's packed value against its definition, float rows against the product with
// the widened float32 matrix (the same bits), int8 rows against the integer formula, and the same bits for any number
// of rows and parts.
#include <algorithm>
#include <cmath>

#include "kernels/conformance.h"
#include "kernels/pack.h"
#include "kernels/quantize.h"
#include "kernels/quantized_layout.h"
#include "kernels/ref.h"

namespace weft::kernels {
namespace {

class Quantized : public TableTest {};

struct Format {
  const char* name;
  WeightForm form;
  WeightGroups groups;
};
using enum OffsetKind;
constexpr int kWholeK = -1;  // one group for all of k
const Format kFormats[] = {
    {"fp8 blocks", WeightForm::fp8, {128, ScaleKind::f32, none}},
    {"fp8 rows", WeightForm::fp8, {kWholeK, ScaleKind::f32, none}},
    {"int8 channel", WeightForm::int8, {kWholeK, ScaleKind::f32, none}},
    {"int8 groups", WeightForm::int8, {64, ScaleKind::bf16, none}},
    {"q8_0", WeightForm::int8, {32, ScaleKind::f16, none}},
    {"q4_0", WeightForm::int4, {32, ScaleKind::f16, none}},
    {"int4 groups", WeightForm::int4, {32, ScaleKind::bf16, none}},
    {"int4 64", WeightForm::int4, {64, ScaleKind::bf16, none}},
    {"int4 zero points", WeightForm::int4, {128, ScaleKind::f32, zero}},
    {"int4 zero points f16", WeightForm::int4, {128, ScaleKind::f16, zero}},
    {"int4 zero points bf16", WeightForm::int4, {32, ScaleKind::bf16, zero}},
    {"q4_1", WeightForm::int4, {32, ScaleKind::f16, minimum}},
    {"q4_k", WeightForm::int4, {32, ScaleKind::super, minimum}},
    {"q6_k", WeightForm::int6, {16, ScaleKind::super, none}},
    {"q5_0", WeightForm::int6, {32, ScaleKind::f16, none}},
    {"q5_1", WeightForm::int6, {32, ScaleKind::f16, minimum}},
    {"q5_k", WeightForm::int6, {32, ScaleKind::super, minimum}},
    {"q2_k", WeightForm::int6, {16, ScaleKind::super, minimum}},
    {"iq3_s", WeightForm::int6, {32, ScaleKind::f32, none}},
    {"iq1_m", WeightForm::int6, {16, ScaleKind::f32, none}},
    {"iq4_xs", WeightForm::int8, {32, ScaleKind::f32, none}},
    {"mxfp4", WeightForm::int8, {32, ScaleKind::bf16, none}},
    {"tq2_0", WeightForm::int4, {256, ScaleKind::f16, none}},
    {"nvfp4", WeightForm::fp4, {16, ScaleKind::f32, none, CodeLevels::e2m1}},
    {"mxfp4 bf16", WeightForm::fp4, {32, ScaleKind::bf16, none, CodeLevels::e2m1}},
    {"nf4", WeightForm::fp4, {64, ScaleKind::f32, none, CodeLevels::nf4}},
    {"bitsandbytes fp4", WeightForm::fp4, {kWholeK, ScaleKind::f32, none, CodeLevels::bnb_fp4}},
};

struct Shape {
  int out, k, shards;
};
constexpr Shape kShapes[] = {{1, 1, 1},    {3, 33, 1},    {16, 64, 1},  {17, 96, 1},  {70, 515, 1},
                             {64, 256, 8}, {130, 512, 4}, {33, 608, 1}, {257, 64, 2}, {257, 515, 1}};

float f16_value(uint16_t bits) { return f16_to_float(bits); }

// Random codes and scales, and their values in plain words.
struct Matrix {
  Format format;
  Shape shape;
  std::vector<uint8_t> codes, zeros, factors, offset_factors;
  std::vector<float> scales;
  std::vector<uint16_t> narrow_scales, minima;
  std::vector<float> values;
  int groups, supers;
  std::vector<std::byte> bytes;
  PackedMatrix packed;

  Matrix(const CpuTable& table, Format f, Shape s, uint32_t seed = 1) : format(f), shape(s) {
    std::mt19937 random(seed);
    if (format.groups.size == kWholeK) format.groups.size = static_cast<int>(strip_count(s.k)) * kStrip;
    groups = (s.k + format.groups.size - 1) / format.groups.size, supers = (s.k + 255) / 256;
    const bool super = format.groups.scale == ScaleKind::super;
    const size_t scale_count = static_cast<size_t>(s.out) * static_cast<size_t>(super ? supers : groups);
    const size_t group_count = static_cast<size_t>(s.out) * static_cast<size_t>(groups);
    codes.resize(static_cast<size_t>(s.out) * static_cast<size_t>(s.k));
    const uint8_t mask = format.form == WeightForm::int4 || format.form == WeightForm::fp4 ? 15
                         : format.form == WeightForm::int6                                 ? 63
                                                                                           : 255;
    for (uint8_t& code : codes) {
      code = static_cast<uint8_t>(random() & mask);
      if (format.form == WeightForm::fp8 && (code & 0x7f) == 0x7f) code ^= 1;
    }
    for (size_t i = 0; i < scale_count; ++i) {
      scales.push_back(static_cast<float>(random() % 1000 + 1) * 1e-4f * (random() % 2 ? 1.0f : -1.0f));
      // Sign, an exponent near 2^-5, any mantissa.
      narrow_scales.push_back(static_cast<uint16_t>((random() & 0x83ff) | (10 << 10)));
      if (format.groups.scale == ScaleKind::bf16) narrow_scales.back() = float_to_bf16(scales.back());
      minima.push_back(static_cast<uint16_t>((random() & 0x83ff) | (12 << 10)));
      zeros.push_back(static_cast<uint8_t>(random() % 16));
    }
    for (size_t i = 0; i < group_count; ++i) {
      factors.push_back(static_cast<uint8_t>(format.form == WeightForm::int6 ? random() : random() % 64));
      offset_factors.push_back(static_cast<uint8_t>(random() % 64));
    }
    for (int row = 0; row < s.out; ++row)
      for (int k = 0; k < s.k; ++k) values.push_back(value(row, k));
    pack(table);
  }

  QuantizedRows rows(int first, int count) const {
    const size_t begin = static_cast<size_t>(first),
                 per_row = static_cast<size_t>(format.groups.scale == ScaleKind::super ? supers : groups);
    QuantizedRows r{.rows = count, .k = shape.k, .codes = codes.data() + begin * static_cast<size_t>(shape.k)};
    r.scales = format.groups.scale == ScaleKind::f32 ? static_cast<const void*>(scales.data() + begin * per_row)
                                                     : static_cast<const void*>(narrow_scales.data() + begin * per_row);
    r.offsets = format.groups.offset == zero ? static_cast<const void*>(zeros.data() + begin * per_row)
                                             : static_cast<const void*>(minima.data() + begin * per_row);
    r.factors = factors.data() + begin * static_cast<size_t>(groups);
    r.offset_factors = offset_factors.data() + begin * static_cast<size_t>(groups);
    return r;
  }

  void pack(const CpuTable& table) {
    const int panel = table.panel_cols(format.form), panels = (shape.out + panel - 1) / panel;
    const size_t panel_bytes = table.quantized_panel_bytes(format.form, format.groups, shape.k);
    bytes.assign(panel_bytes * static_cast<size_t>(panels) + 64, std::byte{0xff});
    const size_t skew = (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
    for (int i = 0; i < panels; ++i)
      table.pack_panel_quantized(format.form, format.groups, rows(i * panel, std::min(panel, shape.out - i * panel)),
                                 bytes.data() + skew + panel_bytes * static_cast<size_t>(i));
    packed = {.form = format.form,
              .out = shape.out,
              .k = shape.k,
              .panel = panel,
              .panel_bytes = panel_bytes,
              .shards = shape.shards,
              .data = bytes.data() + skew,
              .groups = format.groups};
  }

  // e2m1 from its bits; the others' tables are those of bitsandbytes' functional.py.
  float level(int code) const {
    static const float nf4[] = {-1.0f,
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
    if (format.groups.levels == CodeLevels::nf4) return nf4[code];
    const int exponent = code >> 1 & 3, mantissa = code & 1;
    const float sign = code & 8 ? -1.0f : 1.0f;
    if (format.groups.levels == CodeLevels::bnb_fp4) {
      static const float magnitudes[] = {0.0f, 0.0625f, 8.0f, 12.0f, 4.0f, 6.0f, 2.0f, 3.0f};
      return sign * (magnitudes[code & 7] / 12.0f);
    }
    const float half = 0.5f * static_cast<float>(mantissa);
    return sign * (exponent == 0 ? half : std::ldexp(1.0f + half, exponent - 1));
  }

  // The definition (WeightForm, WeightGroups), from the arrays above.
  float value(int row, int k) const {
    const size_t group = static_cast<size_t>(row * groups + k / format.groups.size);
    const bool super = format.groups.scale == ScaleKind::super;
    const size_t at = super ? static_cast<size_t>(row * supers + k / 256) : group;
    const uint8_t code = codes[static_cast<size_t>(row) * static_cast<size_t>(shape.k) + static_cast<size_t>(k)];
    float scale = scales[at];
    if (format.groups.scale == ScaleKind::bf16) scale = bf16_to_float(narrow_scales[at]);
    if (format.groups.scale == ScaleKind::f16) scale = f16_value(narrow_scales[at]);
    if (super)
      scale =
          f16_value(narrow_scales[at]) *
          static_cast<float>(format.form == WeightForm::int6 ? static_cast<int8_t>(factors[group]) : factors[group]);
    switch (format.form) {
      case WeightForm::fp8: return f8_e4m3_to_float(code) * scale;
      case WeightForm::int8: return static_cast<float>(static_cast<int8_t>(code)) * scale;
      case WeightForm::int6:
        if (format.groups.offset == none) return static_cast<float>(code - 32) * scale;
        break;
      case WeightForm::fp4: return level(code) * scale;
      default: break;
    }
    if (format.groups.offset == zero) return static_cast<float>(code - zeros[at]) * scale;
    if (format.groups.offset == minimum) {
      const float product = static_cast<float>(code) * scale;
      if (!super) return product + f16_value(minima[at]);
      return product - f16_value(minima[at]) * static_cast<float>(offset_factors[group]);
    }
    return static_cast<float>(code - 8) * scale;
  }
};

std::vector<float> multiply(const CpuTable& table, const PackedMatrix& w, const void* x, int64_t ld_x, int rows,
                            int parts, int64_t ld_y) {
  std::vector<float> y(static_cast<size_t>(rows * ld_y), NAN);
  const LinearArgs a{.x = x, .ld_x = ld_x, .w = w, .y = y.data(), .ld_y = ld_y};
  in_parts(parts, [&](Part part) { table.run(a, rows, part); });
  return y;
}

TEST_P(Quantized, PackedValuesAreTheDefinition) {
  for (const Format& format : kFormats) {
    for (const Shape& shape : kShapes) {
      const Matrix m(table(), format, shape);
      for (int n = 0; n < shape.out; ++n)
        for (int k = 0; k < shape.k; ++k)
          ASSERT_EQ(ref_weight(m.packed, n, k), m.values[static_cast<size_t>(n * shape.k + k)])
              << format.name << " " << n << " " << k;
    }
  }
}

TEST_P(Quantized, FloatRowsGiveTheBitsOfTheWidenedMatrix) {
  const bool slow = std::string(table().isa) == "ref";
  for (const Format& format : kFormats) {
    for (const Shape& shape : kShapes) {
      if (slow && shape.out * shape.k > 20000) continue;
      const Matrix m(table(), format, shape);
      const Packed wide = packed(table(), WeightForm::f32, m.values, shape.out, shape.k, shape.shards);
      const int64_t ld_x = shape.k + 5, ld_y = shape.out + 3;
      for (const int rows : {1, 2, 3, 5, 6, 7, 12, 13, 31, 110}) {
        if (slow && rows > 7) break;
        const auto x = random_floats(static_cast<size_t>(rows * ld_x), 7);
        const auto want = multiply(table(), wide.matrix, x.data(), ld_x, rows, 1, ld_y);
        for (const int parts : {1, 3})
          ASSERT_EQ(bits_of(multiply(table(), m.packed, x.data(), ld_x, rows, parts, ld_y)), bits_of(want))
              << format.name << " " << shape.out << "x" << shape.k << "/" << shape.shards << ", " << rows << " rows";
      }
    }
  }
}

TEST_P(Quantized, NanCodesOfFp8MakeTheirColumnNan) {
  Matrix m(table(), kFormats[0], {20, 300, 1});
  m.codes[5 * 300 + 290] = 0xff;
  m.pack(table());
  const std::vector<float> x(300, 0.25f);
  const auto y = multiply(table(), m.packed, x.data(), 300, 1, 1, 20);
  for (int n = 0; n < 20; ++n) ASSERT_EQ(std::isnan(y[static_cast<size_t>(n)]), n == 5) << n;
}

std::vector<int8_t> int8_rows(const CpuTable& table, const std::vector<float>& x, int rows, int k, int64_t ld) {
  std::vector<int8_t> out(static_cast<size_t>(rows * ld), 99);
  const ToOperandArgs a{.x = x.data(), .ld_x = k, .cols = k, .operand = Operand::int8, .out = out.data(), .ld_out = ld};
  in_parts(2, [&](Part part) { table.run(a, rows, part); });
  return out;
}

TEST_P(Quantized, Int8RowsAreTheFormula) {
  for (const int k : {1, 31, 32, 33, 100, 576}) {
    const int rows = 5;
    auto x = random_floats(static_cast<size_t>(rows * k), 3, -4, 4);
    for (int i = 0; i < k; ++i) x[static_cast<size_t>(k + i)] = 0;  // a row of zeros
    x[static_cast<size_t>(2 * k)] = INFINITY, x[static_cast<size_t>(3 * k)] = NAN;
    const int64_t ld = operand_row_elements(Operand::int8, k) + 8;
    const auto got = int8_rows(table(), x, rows, k, ld);
    for (int r = 0; r < rows; ++r) {
      const int8_t* row = got.data() + r * ld;
      for (int s = 0; s * kStrip < k; ++s) {
        const int first = s * kStrip, last = std::min(k, first + kStrip);
        float largest = 0;
        for (int i = first; i < last; ++i) largest = std::max(largest, std::fabs(x[static_cast<size_t>(r * k + i)]));
        int sum = 0;
        for (int i = first; i < first + kStrip; ++i) sum += row[i];
        ASSERT_EQ(strip_sums(row, k)[s], sum);
        if (s == 0 && (r == 2 || r == 3)) {
          ASSERT_TRUE(std::isnan(strip_scales(row, k)[s]));
          continue;
        }
        ASSERT_EQ(strip_scales(row, k)[s], largest / 127.0f);
        for (int i = first; i < first + kStrip; ++i) {
          const double want = i < last && largest > 0 ? x[static_cast<size_t>(r * k + i)] * 127.0 / largest : 0.0;
          ASSERT_LE(std::abs(row[i] - want), 0.5001) << i;
        }
      }
      for (int64_t i = operand_row_elements(Operand::int8, k); i < ld; ++i) ASSERT_EQ(row[i], 99);
    }
  }
}

// The operand is the same whoever writes it.
TEST_P(Quantized, NormsAndActivationsWriteInt8RowsLikeAConversion) {
  const int rows = 3;
  for (const int cols : {1, 40, 64, 200}) {
    const auto x = random_floats(static_cast<size_t>(rows * cols * 2), 5, -3, 3),
               w = random_floats(static_cast<size_t>(cols), 6);
    const int64_t ld = operand_row_elements(Operand::int8, cols) + 4;
    std::vector<float> plain(static_cast<size_t>(rows * cols));
    const auto same = [&](const auto& args) {
      auto a = args;
      a.operand = Operand::f32, a.out = plain.data(), a.ld_out = cols;
      table().run(a, rows, Part{});
      const auto want = int8_rows(table(), plain, rows, cols, ld);
      std::vector<int8_t> got(want.size(), 99);
      a.operand = Operand::int8, a.out = got.data(), a.ld_out = ld;
      in_parts(3, [&](Part part) { table().run(a, rows, part); });
      EXPECT_EQ(got, want) << cols;
    };
    same(NormArgs{.x = x.data(), .ld_x = cols, .cols = cols, .weight = w.data()});
    same(NormArgs{.layer = true, .x = x.data(), .ld_x = cols, .cols = cols});
    same(ActivateArgs{.x = x.data(), .ld_x = 2 * cols, .cols = cols});
  }
}

const Format kInt8Rows[] = {{"int8 groups", WeightForm::int8, {64, ScaleKind::bf16, none}},
                            {"int8 channel", WeightForm::int8, {kWholeK, ScaleKind::bf16, none}},
                            {"int4 groups", WeightForm::int4, {32, ScaleKind::bf16, none}},
                            {"int4 128", WeightForm::int4, {128, ScaleKind::bf16, none}}};

TEST_P(Quantized, Int8RowsTimesCodesAreTheReference) {
  const bool slow = std::string(table().isa) == "ref";
  for (const Format& format : kInt8Rows) {
    for (const Shape& shape : kShapes) {
      Matrix m(table(), format, shape), yardstick(ref_table(), format, shape);
      // The largest magnitudes, whose sums come nearest to what 16 bits hold.
      for (Matrix* matrix : {&m, &yardstick}) {
        for (int k = 0; k < shape.k; ++k)
          matrix->codes[static_cast<size_t>(k)] = format.form == WeightForm::int8 ? 128 : 15;
        matrix->pack(matrix == &m ? table() : ref_table());
        matrix->packed.operand = Operand::int8;
      }
      auto x = random_floats(static_cast<size_t>(40 * shape.k), 9, -2, 2);
      for (int k = 0; k < shape.k; ++k) x[static_cast<size_t>(k)] = 2;
      const int64_t ld_x = operand_row_elements(Operand::int8, shape.k) + 24, ld_y = shape.out + 3;
      const auto rows8 = int8_rows(ref_table(), x, 40, shape.k, ld_x);
      const auto want = multiply(ref_table(), yardstick.packed, rows8.data(), ld_x, slow ? 4 : 40, 1, ld_y);
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 20, 32, 40}) {
        if (slow && rows > 4) break;
        for (const int parts : {1, 2, 5}) {
          const auto got = multiply(table(), m.packed, rows8.data(), ld_x, rows, parts, ld_y);
          // Integers are exact, and the scales are added in the same order with the same operations.
          ASSERT_EQ(bits_of(got), bits_of({want.begin(), want.begin() + rows * ld_y}))
              << format.name << " " << shape.out << "x" << shape.k << ", " << rows << " rows";
        }
      }
    }
  }
}

TEST_P(Quantized, OneRowsNanStaysInItsRow) {
  for (const Format& format : kInt8Rows) {
    Matrix m(table(), format, {70, 515, 1});
    m.packed.operand = Operand::int8;
    auto x = random_floats(9 * 515, 2);
    const int64_t ld = operand_row_elements(Operand::int8, 515);
    const auto clean_rows = int8_rows(table(), x, 9, 515, ld);
    const auto clean = multiply(table(), m.packed, clean_rows.data(), ld, 9, 1, 70);
    x[4 * 515 + 100] = NAN;
    const auto rows8 = int8_rows(table(), x, 9, 515, ld);
    const auto y = multiply(table(), m.packed, rows8.data(), ld, 9, 2, 70);
    for (int r = 0; r < 9; ++r)
      for (size_t at = static_cast<size_t>(r * 70), n = 0; n < 70; ++n, ++at) {
        if (r == 4) ASSERT_TRUE(std::isnan(y[at]));
        else ASSERT_EQ(y[at], clean[at]);
      }
  }
}

// Rows that are named by a map, as experts read them, are the rows themselves.
TEST_P(Quantized, MappedRowsAreTheRows) {
  const int k = 96, out = 70, x_rows = 6, share = 2;
  const std::vector<int32_t> map = {11, 0, 3, 4, 5, 8, 9, 10};  // of y's twelve rows; row n reads row n / 2 of x
  const auto x = random_floats(x_rows * k, 3);
  for (const Format& format : {kFormats[0], kFormats[5], kInt8Rows[0], kInt8Rows[2]}) {
    Matrix m(table(), format, {out, k, 1});
    const bool int8 = format.groups.scale == ScaleKind::bf16;
    m.packed.operand = int8 ? Operand::int8 : Operand::f32;
    const int64_t ld8 = operand_row_elements(Operand::int8, k), ld = int8 ? ld8 : k;
    const auto rows8 = int8_rows(table(), x, x_rows, k, ld8);
    const void* operand = int8 ? static_cast<const void*>(rows8.data()) : static_cast<const void*>(x.data());
    const auto plain = multiply(table(), m.packed, operand, ld, x_rows, 1, out);
    std::vector<float> y(12 * out, NAN);
    const LinearArgs a{
        .x = operand, .ld_x = ld, .w = m.packed, .y = y.data(), .ld_y = out, .row_map = map.data(), .x_share = share};
    in_parts(3, [&](Part part) { table().run(a, static_cast<int>(map.size()), part); });
    for (int n = 0; n < 12; ++n) {
      const bool mapped = std::find(map.begin(), map.end(), n) != map.end();
      for (int c = 0; c < out; ++c) {
        const float got = y[static_cast<size_t>(n * out + c)];
        if (mapped) ASSERT_EQ(got, plain[static_cast<size_t>(n / share * out + c)]) << format.name << " " << n;
        else ASSERT_TRUE(std::isnan(got));
      }
    }
  }
}

WEFT_TEST_TABLES(Quantized);

double relative_error(WeightForm form, const std::vector<float>& w, int k) {
  const WeightFormat format = quantized_format(form, k, Operand::f32);
  const int groups = (k + format.groups.size - 1) / format.groups.size;
  double error = 0, total = 0;
  for (size_t row = 0; row * static_cast<size_t>(k) < w.size(); ++row) {
    std::vector<uint8_t> codes(static_cast<size_t>(k));
    std::vector<uint16_t> scales(static_cast<size_t>(groups));
    quantize_row(format, w.data() + row * static_cast<size_t>(k), k, codes.data(), scales.data());
    for (int i = 0; i < k; ++i) {
      const float scale = bf16_to_float(scales[static_cast<size_t>(i / format.groups.size)]),
                  x = w[row * static_cast<size_t>(k) + static_cast<size_t>(i)];
      const int code = form == WeightForm::int8 ? static_cast<int8_t>(codes[static_cast<size_t>(i)])
                                                : codes[static_cast<size_t>(i)] - 8;
      error += std::pow(static_cast<double>(x) - code * static_cast<double>(scale), 2),
          total += std::pow(static_cast<double>(x), 2);
    }
  }
  return std::sqrt(error / total);
}

double error_without_search(const std::vector<float>& w, int k) {
  double error = 0, total = 0;
  for (size_t row = 0; row * static_cast<size_t>(k) < w.size(); ++row)
    for (int first = 0; first < k; first += 32) {
      const float* x = w.data() + row * static_cast<size_t>(k) + static_cast<size_t>(first);
      const int count = std::min(32, k - first);
      const float scale =
          *std::max_element(x, x + count, [](float a, float b) { return std::fabs(a) < std::fabs(b); }) / -8.0f;
      for (int i = 0; i < count; ++i) {
        const double rounded = std::clamp(std::nearbyint(x[i] / scale), -8.0f, 7.0f) * static_cast<double>(scale);
        error += std::pow(x[i] - rounded, 2), total += std::pow(static_cast<double>(x[i]), 2);
      }
    }
  return std::sqrt(error / total);
}

TEST(Quantize, ErrorsAreThoseOfTheStep) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 0.02f);
  for (const int k : {20, 64, 576}) {
    std::vector<float> w(static_cast<size_t>(50 * k));
    for (float& value : w) value = normal(random);
    // Of a normal distribution the largest of 64 is about 2.6 deviations: a step of 2.6 / 127, an error of 0.29 steps.
    EXPECT_LT(relative_error(WeightForm::int8, w, k), 0.0075) << k;
    EXPECT_GT(relative_error(WeightForm::int8, w, k), 0.003) << k;
    // The search is better than taking the largest of each 32 for -8.
    EXPECT_LT(relative_error(WeightForm::int4, w, k), 0.96 * error_without_search(w, k)) << k;
    EXPECT_GT(relative_error(WeightForm::int4, w, k), 0.6 * error_without_search(w, k)) << k;
  }
}

TEST(Quantize, EdgesAreKept) {
  for (const WeightForm form : {WeightForm::int8, WeightForm::int4}) {
    const WeightFormat format = quantized_format(form, 96, Operand::f32);
    std::vector<float> w(96, 0.0f);
    w[95] = NAN;
    std::vector<uint8_t> codes(96);
    std::vector<uint16_t> scales(static_cast<size_t>((96 + format.groups.size - 1) / format.groups.size));
    quantize_row(format, w.data(), 96, codes.data(), scales.data());
    EXPECT_EQ(bf16_to_float(scales[0]) * static_cast<float>(codes[0]), 0.0f);  // all zero
    EXPECT_TRUE(std::isnan(bf16_to_float(scales.back())));
    w.assign(96, 1e-42f);  // too small for a scale to represent
    quantize_row(format, w.data(), 96, codes.data(), scales.data());
    EXPECT_LE(std::fabs(bf16_to_float(scales[0])), 1e-38f);
    w.assign(96, -1e38f);
    quantize_row(format, w.data(), 96, codes.data(), scales.data());
    const int code = form == WeightForm::int8 ? static_cast<int8_t>(codes[0]) : codes[0] - 8;
    EXPECT_NEAR(bf16_to_float(scales[0]) * static_cast<float>(code) / -1e38f, 1.0f, 0.01f);
  }
}

}  // namespace
}  // namespace weft::kernels
