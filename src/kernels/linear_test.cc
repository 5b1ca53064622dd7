// Matrix products of every table against sums in double precision, and their exactness: the same bits for any number of
// rows and parts.
#include <algorithm>
#include <cmath>

#include "kernels/conformance.h"

namespace weft::kernels {
namespace {

class Linear : public TableTest {};

struct Shape {
  int out, k, shards;
};
constexpr Shape kShapes[] = {{1, 1, 1},     {3, 2, 1},    {16, 8, 1},   {17, 33, 1},  {64, 256, 1},
                             {70, 515, 1},  {130, 64, 8}, {33, 600, 4}, {257, 80, 2}, {48, 2080, 8},
                             {20, 1030, 1}, {300, 40, 1}, {70, 512, 8}, {40, 512, 2}};

// One product's operands and its result in double precision.
struct Case {
  Shape shape;
  WeightForm form;
  int rows;
  Operand operand;
  int64_t ld_x, ld_y, ld_residual;
  std::vector<float> x, w, bias, residual;
  std::vector<std::byte> operand_bytes;
  Packed matrix;

  Case(const CpuTable& table, Shape s, WeightForm f, int row_count)
      : shape(s), form(f), rows(row_count), operand(table.operand(f)), ld_x((s.k + 1) / 2 * 2 + 6), ld_y(s.out + 3),
        ld_residual(s.out + 1) {
    const size_t k = static_cast<size_t>(s.k), out = static_cast<size_t>(s.out);
    x = random_floats(static_cast<size_t>(rows) * k, 1);
    w = random_floats(out * k, 2);
    bias = random_floats(out, 3);
    residual = random_floats(static_cast<size_t>(rows * ld_residual), 4);
    operand_bytes = as_operand(x, rows, s.k, ld_x, operand);
    matrix = packed(table, form, w, s.out, s.k, s.shards);
  }
  // y as [rows, ld_y], NaN between the rows.
  std::vector<float> run(const CpuTable& table, int parts, bool with_bias, bool with_residual) const {
    std::vector<float> y(static_cast<size_t>(rows * ld_y), NAN);
    const LinearArgs a{.x = operand_bytes.data(),
                       .ld_x = ld_x,
                       .w = matrix.matrix,
                       .bias = with_bias ? bias.data() : nullptr,
                       .residual = with_residual ? residual.data() : nullptr,
                       .ld_residual = ld_residual,
                       .y = y.data(),
                       .ld_y = ld_y};
    in_parts(parts, [&](Part part) { table.run(a, rows, part); });
    return y;
  }
  std::vector<float> run_row(const CpuTable& table, int row) const {
    std::vector<float> y(static_cast<size_t>(shape.out));
    const LinearArgs a{.x = operand_bytes.data() + row * ld_x * operand_size_bytes(operand),
                       .ld_x = ld_x,
                       .w = matrix.matrix,
                       .bias = bias.data(),
                       .residual = residual.data() + row * ld_residual,
                       .ld_residual = ld_residual,
                       .y = y.data(),
                       .ld_y = ld_y};
    table.run(a, 1, {});
    return y;
  }
  double exact(int r, int n) const {
    double sum = 0;
    for (int k = 0; k < shape.k; ++k) {
      float a = x[static_cast<size_t>(r) * static_cast<size_t>(shape.k) + static_cast<size_t>(k)];
      float b = w[static_cast<size_t>(n) * static_cast<size_t>(shape.k) + static_cast<size_t>(k)];
      if (form == WeightForm::bf16) a = rounded_bf16(a), b = rounded_bf16(b);
      sum += static_cast<double>(a) * b;
    }
    return sum;
  }
};

constexpr WeightForm kForms[] = {WeightForm::f32, WeightForm::bf16};

TEST_P(Linear, agrees_with_double_precision) {
  for (const WeightForm form : kForms) {
    for (const Shape& shape : kShapes) {
      const Case c(table(), shape, form, 7);
      const std::vector<float> plain = c.run(table(), 1, false, false), full = c.run(table(), 1, true, true);
      for (int r = 0; r < c.rows; ++r) {
        for (int n = 0; n < shape.out; ++n) {
          const double exact = c.exact(r, n), tolerance = 1e-6 * std::sqrt(shape.k) + 1e-6;
          const size_t at = static_cast<size_t>(r * c.ld_y + n);
          ASSERT_NEAR(plain[at], exact, tolerance) << shape.out << "x" << shape.k << " row " << r << " column " << n;
          const float bias = c.bias[static_cast<size_t>(n)],
                      residual = c.residual[static_cast<size_t>(r * c.ld_residual + n)];
          ASSERT_EQ(full[at], (plain[at] + bias) + residual);
        }
      }
    }
  }
}

TEST_P(Linear, writes_nothing_but_its_columns) {
  for (const WeightForm form : kForms) {
    for (const Shape& shape : kShapes) {
      const Case c(table(), shape, form, 9);
      const std::vector<float> y = c.run(table(), 2, true, true);
      for (int r = 0; r < c.rows; ++r) {
        for (int64_t n = 0; n < c.ld_y; ++n)
          ASSERT_EQ(std::isnan(y[static_cast<size_t>(r * c.ld_y + n)]), n >= shape.out) << r << " " << n;
      }
    }
  }
}

// What the product and then activate() give, for any number of rows and parts.
TEST_P(Linear, gates_like_an_activation_behind_it) {
  constexpr int kCols = 112;  // of the result
  const Activation acts[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu2,
                             Activation::quick_gelu};
  for (const WeightForm form : kForms)
    for (const int rows : {1, 3, 17, 40, 130}) {
      const Case c(table(), {2 * kCols, 70, 1}, form, rows);
      const Activation act = acts[rows % 5];
      const std::vector<float> y = c.run(table(), 1, true, false);
      std::vector<float> halves(static_cast<size_t>(rows) * 2 * kCols);
      for (int r = 0; r < rows; ++r)
        for (int n = 0; n < 2 * kCols; ++n)
          halves[static_cast<size_t>(r * 2 * kCols + (n / 16 % 2) * kCols + n / 32 * 16 + n % 16)] =
              y[static_cast<size_t>(r * c.ld_y + n)];
      for (const Operand operand : {Operand::f32, Operand::bf16, Operand::f32_as_bf16}) {
        const int64_t ld_out = kCols + 8;
        const size_t bytes = static_cast<size_t>(rows * ld_out) * operand_size_bytes(operand);
        std::vector<std::byte> expected(bytes, std::byte{0x55}), gated = expected;
        table().run<ActivateArgs>({.x = halves.data(),
                                   .ld_x = 2 * kCols,
                                   .cols = kCols,
                                   .act = act,
                                   .gated = true,
                                   .operand = operand,
                                   .out = expected.data(),
                                   .ld_out = ld_out},
                                  rows, {});
        for (const int parts : {1, 2, 3}) {
          const LinearArgs a{.x = c.operand_bytes.data(),
                             .ld_x = c.ld_x,
                             .w = c.matrix.matrix,
                             .bias = c.bias.data(),
                             .gate = {gated.data(), ld_out, act, operand}};
          in_parts(parts, [&](Part part) { table().run(a, rows, part); });
          ASSERT_EQ(gated, expected) << rows << " rows, " << parts << " parts, operand " << static_cast<int>(operand);
          std::fill(gated.begin(), gated.end(), std::byte{0x55});
        }
      }
    }
}

TEST_P(Linear, every_row_and_part_count_gives_the_same_bits) {
  std::vector<int> row_counts = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 31, 64, 130};
  for (const WeightForm form : kForms) {
    for (const Shape& shape : kShapes) {
      if (static_cast<int64_t>(shape.out) * shape.k > 40000 && std::string(table().isa) == "ref") continue;
      const Case all(table(), shape, form, 130);
      std::vector<std::vector<float>> single;
      for (int r = 0; r < all.rows; ++r) single.push_back(all.run_row(table(), r));
      for (const int rows : row_counts) {
        const Case c(table(), shape, form, rows);
        const std::vector<float> y = c.run(table(), 1, true, true);
        for (const int parts : {2, 3, 5, 16})
          ASSERT_EQ(bits_of(y), bits_of(c.run(table(), parts, true, true))) << rows << " rows, " << parts << " parts";
        for (int r = 0; r < rows; ++r) {
          ASSERT_EQ(0, std::memcmp(single[static_cast<size_t>(r)].data(), y.data() + r * c.ld_y,
                                   static_cast<size_t>(shape.out) * 4))
              << shape.out << "x" << shape.k << ", " << rows << " rows, row " << r;
        }
      }
    }
  }
}

TEST_P(Linear, shards_are_a_balanced_tree) {
  for (const WeightForm form : kForms) {
    const Shape shape{40, 512, 8};
    const Case c(table(), shape, form, 8);
    const std::vector<float> y = c.run(table(), 1, false, false);
    // The same product shard by shard: operands of one eighth of k each.
    std::vector<std::vector<float>> sums;
    for (int s = 0; s < 8; ++s) {
      Case part(table(), {40, 64, 1}, form, 8);
      for (int r = 0; r < 8; ++r) std::copy_n(c.x.begin() + r * 512 + s * 64, 64, part.x.begin() + r * 64);
      for (int n = 0; n < 40; ++n) std::copy_n(c.w.begin() + n * 512 + s * 64, 64, part.w.begin() + n * 64);
      part.operand_bytes = as_operand(part.x, 8, 64, part.ld_x, part.operand);
      part.matrix = packed(table(), form, part.w, 40, 64, 1);
      sums.push_back(part.run(table(), 1, false, false));
    }
    for (int r = 0; r < 8; ++r) {
      for (int n = 0; n < 40; ++n) {
        const auto s = [&](int i) { return sums[static_cast<size_t>(i)][static_cast<size_t>(r * c.ld_y + n)]; };
        ASSERT_EQ(y[static_cast<size_t>(r * c.ld_y + n)],
                  ((s(0) + s(1)) + (s(2) + s(3))) + ((s(4) + s(5)) + (s(6) + s(7))));
      }
    }
  }
}

TEST_P(Linear, the_residual_may_be_the_result) {
  const Case c(table(), {70, 515, 1}, WeightForm::f32, 20);
  const std::vector<float> apart = c.run(table(), 1, true, true);
  std::vector<float> y = c.residual;
  const LinearArgs a{.x = c.operand_bytes.data(),
                     .ld_x = c.ld_x,
                     .w = c.matrix.matrix,
                     .bias = c.bias.data(),
                     .residual = y.data(),
                     .ld_residual = c.ld_residual,
                     .y = y.data(),
                     .ld_y = c.ld_residual};
  in_parts(3, [&](Part part) { table().run(a, 20, part); });
  for (int r = 0; r < 20; ++r) {
    for (int n = 0; n < 70; ++n)
      ASSERT_EQ(y[static_cast<size_t>(r * c.ld_residual + n)], apart[static_cast<size_t>(r * c.ld_y + n)]);
  }
}

// The columns come in turn, sixteen gates and sixteen of what they gate; both halves are written apart.
TEST_P(Linear, halves_are_written_apart) {
  for (const WeightForm form : {WeightForm::f32, WeightForm::bf16})
    for (const int rows : {1, 5, 40}) {
      const int out = 96;
      const Case c(table(), {out, 77, 1}, form, rows);
      const std::vector<float> in_turn = c.run(table(), 1, true, false);
      std::vector<float> apart(in_turn.size(), NAN);
      const LinearArgs a{.x = c.operand_bytes.data(),
                         .ld_x = c.ld_x,
                         .w = c.matrix.matrix,
                         .bias = c.bias.data(),
                         .y = apart.data(),
                         .ld_y = c.ld_y,
                         .half = out / 2};
      in_parts(3, [&](Part part) { table().run(a, rows, part); });
      for (int r = 0; r < rows; ++r)
        for (int n = 0; n < out; ++n) {
          const int place = n % 32 < 16 ? n / 32 * 16 + n % 16 : out / 2 + n / 32 * 16 + n % 16;
          ASSERT_EQ(apart[static_cast<size_t>(r * c.ld_y + place)], in_turn[static_cast<size_t>(r * c.ld_y + n)]);
        }
    }
}

TEST_P(Linear, one_rows_nan_stays_in_its_row) {
  Case c(table(), {70, 515, 1}, WeightForm::bf16, 9);
  const std::vector<float> clean = c.run(table(), 1, true, true);
  c.x[4 * 515 + 100] = NAN;
  c.operand_bytes = as_operand(c.x, 9, 515, c.ld_x, c.operand);
  const std::vector<float> y = c.run(table(), 2, true, true);
  for (int r = 0; r < 9; ++r) {
    for (int n = 0; n < 70; ++n) {
      const size_t at = static_cast<size_t>(r * c.ld_y + n);
      if (r == 4) ASSERT_TRUE(std::isnan(y[at]));
      else ASSERT_EQ(y[at], clean[at]);
    }
  }
}

TEST_P(Linear, packing_from_bfloat16_is_packing_from_float32) {
  const int out = table().panel_cols(WeightForm::bf16) - 3, k = 77;
  const std::vector<float> w = random_floats(static_cast<size_t>(out * k), 5);
  std::vector<uint16_t> halves(w.size());
  std::transform(w.begin(), w.end(), halves.begin(), float_to_bf16);
  std::vector<std::byte> a(table().panel_bytes(WeightForm::bf16, k), std::byte{1}), b(a.size(), std::byte{2});
  table().pack_panel(WeightForm::bf16, w.data(), k, out, k, a.data());
  table().pack_panel_bf16(halves.data(), k, out, k, b.data());
  EXPECT_EQ(a, b);
}

// Weights as they are trained (most within a few powers of two), with some far away, zeros, subnormals and an infinity.
std::vector<float> spread_weights(size_t count) {
  std::vector<float> w = random_floats(count, 8);
  for (size_t i = 0; i < count; i += 301) w[i] *= 1e-20f;
  for (size_t i = 7; i < count; i += 997) w[i] = 0;
  for (size_t i = 11; i < count; i += 1999) w[i] = -1e-39f;
  for (size_t i = 13; i < count; i += 2999) w[i] *= 300;
  return w;
}

// The matrix in 12 bits; empty if its weights do not fit.
Packed compressed(const CpuTable& table, const Packed& plain) {
  Packed p{{}, plain.matrix};
  p.matrix.form = WeightForm::bf12;
  p.matrix.panel_bytes = table.panel_bytes(WeightForm::bf12, plain.matrix.k);
  const int panels = (plain.matrix.out + plain.matrix.panel - 1) / plain.matrix.panel;
  p.bytes.resize(p.matrix.panel_bytes * static_cast<size_t>(panels) + kReadAhead, std::byte{0xff});
  std::byte* data = p.bytes.data() + (64 - reinterpret_cast<uintptr_t>(p.bytes.data()) % 64) % 64;
  p.matrix.data = data;
  for (int i = 0; i < panels; ++i)
    if (!table.pack_panel_bf12(plain.matrix.k, plain.matrix.data + plain.matrix.panel_bytes * static_cast<size_t>(i),
                               data + p.matrix.panel_bytes * static_cast<size_t>(i)))
      return {};
  return p;
}

TEST_P(Linear, TwelveBitsGiveTheBitsOfSixteen) {
  if (!table().pack_panel_bf12) GTEST_SKIP() << "no such products";
  for (const Shape& shape : {Shape{70, 515, 1}, Shape{257, 64, 2}, Shape{300, 40, 1}, Shape{48, 2048, 8},
                             Shape{16, 1600, 1}, Shape{130, 1700, 1}}) {
    for (const int rows : {1, 3, 6, 7, 16, 17, 25, 32, 33, 40, 130}) {
      Case c(table(), shape, WeightForm::bf16, rows);
      c.w = spread_weights(c.w.size());
      c.matrix = packed(table(), WeightForm::bf16, c.w, shape.out, shape.k, shape.shards);
      const std::vector<float> plain = c.run(table(), 1, true, true);
      const Packed narrow = compressed(table(), c.matrix);
      ASSERT_FALSE(narrow.bytes.empty());
      c.matrix.matrix = narrow.matrix;
      for (const int parts : {1, 3})
        ASSERT_EQ(bits_of(c.run(table(), parts, true, true)), bits_of(plain))
            << shape.out << "x" << shape.k << ", " << rows << " rows";
    }
  }
}

TEST_P(Linear, TwelveBitsAreRefusedForScatteredExponents) {
  if (!table().pack_panel_bf12) GTEST_SKIP() << "no such products";
  std::vector<float> w = random_floats(64 * 256, 9);
  for (size_t i = 0; i < w.size(); ++i) w[i] = std::ldexp(w[i], static_cast<int>(i * 7919 % 200) - 100);
  EXPECT_TRUE(compressed(table(), packed(table(), WeightForm::bf16, w, 64, 256, 1)).bytes.empty());
}

TEST_P(Linear, EmbeddingRowsComeFromTwelveBits) {
  if (!table().pack_panel_bf12) GTEST_SKIP() << "no such products";
  const int vocab = 150, cols = 77;
  const std::vector<float> w = spread_weights(static_cast<size_t>(vocab * cols));
  const Packed narrow = compressed(table(), packed(table(), WeightForm::bf16, w, vocab, cols, 1));
  std::vector<int32_t> ids(vocab);
  for (int i = 0; i < vocab; ++i) ids[static_cast<size_t>(i)] = i;
  std::vector<float> out(w.size());
  table().run<EmbedArgs>({.ids = ids.data(), .packed = narrow.matrix, .cols = cols, .out = out.data(), .ld_out = cols},
                         vocab, {});
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], rounded_bf16(w[i])) << i;
}

TEST_P(Linear, embedding_rows_come_from_plain_and_from_packed_tables) {
  const int vocab = 150, cols = 37;
  const std::vector<float> w = random_floats(static_cast<size_t>(vocab * cols), 6);
  std::vector<uint16_t> halves(w.size());
  std::transform(w.begin(), w.end(), halves.begin(), float_to_bf16);
  const Packed f32 = packed(table(), WeightForm::f32, w, vocab, cols, 1),
               bf16 = packed(table(), WeightForm::bf16, w, vocab, cols, 1);
  const int32_t ids[] = {0, 149, 63, 64, 17, 16};
  for (int kind = 0; kind < 4; ++kind) {
    EmbedArgs a{.ids = ids, .cols = cols, .scale = 3.0f, .ld_out = cols + 2};
    if (kind == 0) a.row_data = w.data();
    if (kind == 1) a.row_data = halves.data(), a.row_type = DType::bf16;
    if (kind == 2) a.packed = f32.matrix;
    if (kind == 3) a.packed = bf16.matrix;
    std::vector<float> out(6 * (cols + 2), 9.0f);
    a.out = out.data();
    in_parts(4, [&](Part part) { table().run(a, 6, part); });
    for (int r = 0; r < 6; ++r) {
      for (int c = 0; c < cols; ++c) {
        const float value = w[static_cast<size_t>(ids[r] * cols + c)];
        ASSERT_EQ(out[static_cast<size_t>(r * (cols + 2) + c)], 3.0f * (kind % 2 ? rounded_bf16(value) : value))
            << kind;
      }
      ASSERT_EQ(out[static_cast<size_t>(r * (cols + 2) + cols)], 9.0f);
    }
  }
}

WEFT_TEST_TABLES(Linear);

}  // namespace
}  // namespace weft::kernels
