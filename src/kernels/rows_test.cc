// Ops on rows against formulas in double precision, and the same bits for any number of parts.
#include <cmath>
#include <tuple>

#include "kernels/conformance.h"

namespace weft::kernels {
namespace {

class RowOps : public TableTest {};
constexpr int kColumns[] = {1, 14, 16, 63, 130, 2048};

// Runs op with every number of parts and returns the result, which must be the same each time.
std::vector<float> in_every_split(size_t size, const std::function<void(float* out, Part)>& op) {
  std::vector<float> first;
  for (int count : kPartCounts) {
    std::vector<float> out(size, NAN);
    in_parts(count, [&](Part part) { op(out.data(), part); });
    if (first.empty()) first = out;
    EXPECT_EQ(bits_of(out), bits_of(first)) << count << " parts";
  }
  return first;
}

TEST_P(RowOps, RmsNorm) {
  for (int cols : kColumns)
    for (bool one_plus : {false, true}) {
      const int rows = 5;
      const auto x = random_floats(static_cast<size_t>(rows * cols), 1, -3, 3),
                 w = random_floats(static_cast<size_t>(cols), 2);
      const auto got = in_every_split(x.size(), [&](float* out, Part part) {
        table().run<NormArgs>(
            {false, x.data(), cols, cols, w.data(), nullptr, one_plus, 1e-5f, Operand::f32, out, cols}, rows, part);
      });
      for (int r = 0; r < rows; ++r) {
        double squares = 0;
        for (int c = 0; c < cols; ++c)
          squares += std::pow(static_cast<double>(x[static_cast<size_t>(r * cols + c)]), 2);
        for (int c = 0; c < cols; ++c) {
          const size_t i = static_cast<size_t>(r * cols + c);
          const double want =
              x[i] / std::sqrt(squares / cols + 1e-5) * (w[static_cast<size_t>(c)] + (one_plus ? 1 : 0));
          ASSERT_NEAR(got[i], want, 2e-6 * (1 + std::abs(want)));
        }
      }
    }
}

TEST_P(RowOps, LayerNorm) {
  for (int cols : {14, 63, 2048}) {
    const auto x = random_floats(static_cast<size_t>(3 * cols), 1, -3, 3),
               w = random_floats(static_cast<size_t>(cols), 2), b = random_floats(static_cast<size_t>(cols), 3);
    const auto got = in_every_split(x.size(), [&](float* out, Part part) {
      table().run<NormArgs>({true, x.data(), cols, cols, w.data(), b.data(), false, 1e-12f, Operand::f32, out, cols}, 3,
                            part);
    });
    for (int r = 0; r < 3; ++r) {
      double mean = 0, variance = 0;
      for (int c = 0; c < cols; ++c) mean += x[static_cast<size_t>(r * cols + c)] / static_cast<double>(cols);
      for (int c = 0; c < cols; ++c) variance += std::pow(x[static_cast<size_t>(r * cols + c)] - mean, 2) / cols;
      for (int c = 0; c < cols; ++c) {
        const size_t i = static_cast<size_t>(r * cols + c), column = static_cast<size_t>(c);
        ASSERT_NEAR(got[i], (x[i] - mean) / std::sqrt(variance) * w[column] + b[column], 5e-6);
      }
    }
  }
}

double activation_of(Activation act, double x) {
  switch (act) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::relu2: return x > 0 ? x * x : 0;
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::tanh: return std::tanh(x);
    case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
  }
  return 0;
}

TEST_P(RowOps, Activations) {
  for (Activation act : {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu2, Activation::relu,
                         Activation::tanh, Activation::quick_gelu})
    for (bool gated : {true, false}) {
      const int rows = 3, cols = 75, in_cols = gated ? 2 * cols : cols;
      const auto x = random_floats(static_cast<size_t>(rows * in_cols), 4, -9, 9);
      const auto got = in_every_split(static_cast<size_t>(rows * cols), [&](float* out, Part part) {
        table().run<ActivateArgs>({x.data(), in_cols, cols, act, gated, Operand::f32, out, cols}, rows, part);
      });
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) {
          const size_t i = static_cast<size_t>(r * in_cols + c);
          const double want = activation_of(act, x[i]) * (gated ? x[i + static_cast<size_t>(cols)] : 1);
          ASSERT_NEAR(got[static_cast<size_t>(r * cols + c)], want, 1e-6 * (1 + std::abs(want)));
        }
    }
}

// A row of several slots is as many rows.
TEST_P(RowOps, ActivationsOfSlots) {
  constexpr int kRows = 3, kSlots = 4, kCols = 75;
  const auto x = random_floats(size_t{kRows} * kSlots * 2 * kCols, 4, -9, 9);
  const auto run = [&](int rows, int slots) {
    return in_every_split(size_t{kRows} * kSlots * kCols, [&](float* out, Part part) {
      table().run<ActivateArgs>({x.data(), 2 * kCols, kCols, Activation::silu, true, Operand::f32, out, kCols, slots},
                                rows, part);
    });
  };
  EXPECT_EQ(bits_of(run(kRows, kSlots)), bits_of(run(kRows * kSlots, 1)));
}

// Every elementwise op has its formula here, for elements a and b.
double formula(Add, double a, double b) { return a + b; }
double formula(Scale f, double a) { return a * f.factor; }
double formula(SoftCap f, double a) { return f.cap * std::tanh(a / f.cap); }
constexpr std::tuple kElementwise{Add{}, Scale{0.3f}, SoftCap{2.5f}};
static_assert(std::tuple_size_v<decltype(kElementwise)> == size(ElementwiseOps{}));

TEST_P(RowOps, Elementwise) {
  const auto check = [&]<class F>(F f) {
    for (const int cols : kColumns) {
      const int rows = 4, ld_a = cols + 3, ld_b = cols + 5;
      const auto a = random_floats(static_cast<size_t>(rows * ld_a), 7, -9, 9),
                 b = random_floats(static_cast<size_t>(rows * ld_b), 8, -9, 9);
      ElementwiseArgs<F> args{.f = f, .a = a.data(), .ld_a = ld_a, .cols = cols, .ld_out = cols};
      if (F::kInputs == 2) args.b = b.data(), args.ld_b = ld_b;
      const auto got = in_every_split(static_cast<size_t>(rows * cols), [&](float* out, Part part) {
        args.out = out;
        table().run(args, rows, part);
      });
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) {
          const float x = a[static_cast<size_t>(r * ld_a + c)], y = b[static_cast<size_t>(r * ld_b + c)];
          double want = 0;
          if constexpr (F::kInputs == 2) want = formula(f, x, y);
          else want = formula(f, x);
          ASSERT_NEAR(got[static_cast<size_t>(r * cols + c)], want, 1e-6 * (1 + std::abs(want))) << F::kName;
        }
    }
  };
  std::apply([&](auto... ops) { (check(ops), ...); }, kElementwise);
}

TEST_P(RowOps, HeadsNormAndRotation) {
  for (bool interleaved : {false, true})
    for (int dim : {14, 16, 64, 80}) {
      const int rows = 4, heads = 3, half = dim / 2 - 2;  // a part of the head stays
      const auto x = random_floats(static_cast<size_t>(rows * heads * dim), 5),
                 w = random_floats(static_cast<size_t>(dim), 6);
      std::vector<float> inv_freq(static_cast<size_t>(half)), angles(static_cast<size_t>(rows * 2 * half));
      for (int i = 0; i < half; ++i)
        inv_freq[static_cast<size_t>(i)] = static_cast<float>(std::pow(10000.0, -2.0 * i / (2 * half)));
      const std::vector<int32_t> positions{0, 1, 77, 4096};
      in_parts(3, [&](Part part) {
        table().run<RopeAnglesArgs>({positions.data(), rows, nullptr, inv_freq.data(), half, 1.5f, angles.data()}, rows,
                                    part);
      });
      const auto got = in_every_split(x.size(), [&](float* out, Part part) {
        const int first = rows * heads * part.index / part.count;
        (void)first;
        if (part.index == part.count - 1) std::copy(x.begin(), x.end(), out);  // the first call in backward order
        HeadsArgs a;
        a.x = a.out = out, a.ld_x = a.ld_out = heads * dim, a.stride = a.out_stride = dim, a.heads = heads, a.dim = dim,
        a.norm = HeadNorm::rms, a.norm_weight = w.data(), a.eps = 1e-6f;
        a.angles = angles.data(), a.half = half, a.interleaved = interleaved;
        table().run(a, rows, part);
      });
      for (int r = 0; r < rows; ++r)
        for (int h = 0; h < heads; ++h) {
          const float* in = x.data() + (r * heads + h) * dim;
          double squares = 0;
          for (int d = 0; d < dim; ++d) squares += static_cast<double>(in[d]) * in[d];
          const auto normed = [&](int d) {
            return in[d] / std::sqrt(squares / dim + 1e-6) * w[static_cast<size_t>(d)];
          };
          for (int d = 0; d < dim; ++d) {
            double want = normed(d);
            if (d < 2 * half) {
              const int i = interleaved ? d / 2 : d % half;
              const bool second = interleaved ? d % 2 != 0 : d >= half;
              const double angle = static_cast<double>(static_cast<float>(positions[static_cast<size_t>(r)]) *
                                                       inv_freq[static_cast<size_t>(i)]);
              const double a = normed(interleaved ? 2 * i : i), b = normed(interleaved ? 2 * i + 1 : i + half);
              want = 1.5 *
                     (second ? b * std::cos(angle) + a * std::sin(angle) : a * std::cos(angle) - b * std::sin(angle));
            }
            ASSERT_NEAR(got[static_cast<size_t>((r * heads + h) * dim + d)], want, 4e-6)
                << "row " << r << " dimension " << d;
          }
        }
    }
}

TEST_P(RowOps, EmbedReadsPackedAndPlainRows) {
  const int vocab = 75, cols = 33;
  const auto w = random_floats(static_cast<size_t>(vocab * cols), 8);
  const std::vector<int32_t> ids{74, 0, 16, 31};
  for (WeightForm form : {WeightForm::f32, WeightForm::bf16}) {
    const Packed matrix = packed(table(), form, w, vocab, cols, 1);
    const auto got = in_every_split(ids.size() * cols, [&](float* out, Part part) {
      EmbedArgs a;
      a.ids = ids.data(), a.packed = matrix.matrix, a.cols = cols, a.scale = 2, a.out = out, a.ld_out = cols;
      table().run(a, static_cast<int>(ids.size()), part);
    });
    for (size_t r = 0; r < ids.size(); ++r)
      for (int c = 0; c < cols; ++c) {
        const float value = w[static_cast<size_t>(ids[r] * cols + c)];
        EXPECT_EQ(got[r * cols + static_cast<size_t>(c)], 2 * (form == WeightForm::f32 ? value : rounded_bf16(value)));
      }
  }
  const auto plain = in_every_split(ids.size() * cols, [&](float* out, Part part) {
    EmbedArgs a;
    a.ids = ids.data(), a.row_data = w.data(), a.row_type = DType::f32, a.cols = cols, a.out = out, a.ld_out = cols;
    table().run(a, static_cast<int>(ids.size()), part);
  });
  for (size_t r = 0; r < ids.size(); ++r)
    for (int c = 0; c < cols; ++c)
      EXPECT_EQ(plain[r * cols + static_cast<size_t>(c)], w[static_cast<size_t>(ids[r] * cols + c)]);
}

WEFT_TEST_TABLES(RowOps);

// e4m3 and e2m1 by search among all of their numbers.
float nearest_of(float value, const std::vector<float>& numbers) {
  float best = numbers[0];
  bool best_even = true;
  for (size_t i = 0; i < numbers.size(); ++i) {
    const float gap = std::fabs(numbers[i] - value), best_gap = std::fabs(best - value);
    if (gap < best_gap || (gap == best_gap && i % 2 == 0 && !best_even)) best = numbers[i], best_even = i % 2 == 0;
  }
  return best;
}

TEST_P(RowOps, Arrange) {
  constexpr int kWide = 70, kRows = 3, kLd = 80;
  std::vector<float> fp8, fp4;  // magnitudes in ascending order, so that even numbers have even mantissas
  for (int code = 0; code < 127; ++code) fp8.push_back(f8_e4m3_to_float(static_cast<uint8_t>(code)));
  for (const float level : {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f}) fp4.push_back(level);
  const std::vector<float> x = random_floats(kRows * kLd, 5);
  std::vector<float> order(kWide), factors(kWide);
  for (int c = 0; c < kWide; ++c) order[static_cast<size_t>(c)] = static_cast<float>((c * 37) % kWide);
  for (int c = 0; c < kWide; ++c) factors[static_cast<size_t>(c)] = 0.5f + static_cast<float>(c) / 8;
  using Kind = InputRounding::Kind;
  for (const InputRounding& rounding :
       {InputRounding{}, InputRounding{.kind = Kind::int8}, InputRounding{.kind = Kind::fp8},
        InputRounding{.kind = Kind::fp8, .group = 32}, InputRounding{.kind = Kind::fp8, .scale = 0.03f},
        InputRounding{.kind = Kind::fp4, .group = 16, .outer = 0.01f},
        InputRounding{.kind = Kind::fp8, .limit = 0.5f}}) {
    std::vector<float> want(kRows * kLd, -7.0f);
    for (int r = 0; r < kRows; ++r) {
      float* row = want.data() + r * kLd;
      for (int c = 0; c < kWide; ++c)
        row[c] = x[static_cast<size_t>(r * kLd) + static_cast<size_t>(order[static_cast<size_t>(c)])] *
                 factors[static_cast<size_t>(c)];
      const int group = rounding.group > 0 ? rounding.group : kWide;
      for (int first = 0; rounding.kind != Kind::none && first < kWide; first += group) {
        const int last = std::min(first + group, kWide);
        float largest = 0;
        for (int c = first; c < last; ++c) largest = std::max(largest, std::fabs(row[c]));
        if (rounding.limit > 0) largest = std::min(largest, rounding.limit);
        float scale = rounding.scale;
        if (rounding.kind == Kind::int8) scale = largest / 127.0f;
        if (rounding.kind == Kind::fp8 && scale == 0) scale = largest / 448.0f;
        if (rounding.kind == Kind::fp4) scale = nearest_of(largest / 6.0f / rounding.outer, fp8) * rounding.outer;
        for (int c = first; c < last; ++c) {
          const float number = row[c] / scale;
          if (rounding.kind == Kind::int8) row[c] = std::clamp(std::nearbyint(number), -128.0f, 127.0f) * scale;
          else
            row[c] =
                std::copysign(nearest_of(std::fabs(number), rounding.kind == Kind::fp8 ? fp8 : fp4), number) * scale;
        }
      }
    }
    std::vector<float> out(kRows * kLd);
    ArrangeArgs args{
        .x = x.data(), .ld_x = kLd, .order = order.data(), .factors = factors.data(), .rounding = rounding};
    args.cols = kWide, args.out = out.data(), args.ld_out = kLd;
    for (const int parts : {1, 2, 3, 5}) {
      std::fill(out.begin(), out.end(), -7.0f);
      for (int p = 0; p < parts; ++p) table().run(args, kRows, {p, parts});
      EXPECT_EQ(out, want) << parts << " parts, kind " << static_cast<int>(rounding.kind);
    }
  }
}

}  // namespace
}  // namespace weft::kernels
