// Choosing experts, sorting rows by expert, and the products over such rows, on every table; expected values are worked
// out from the definitions in kernels.h in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/conformance.h"

namespace weft::kernels {
namespace {

class Experts : public TableTest {
 protected:
  struct Choice {
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  // Routes rows of logits in two parts.
  std::vector<Choice> route(const RouteRule& rule, const std::vector<float>& logits,
                            const float* bias = nullptr) const {
    const int rows = static_cast<int>(logits.size()) / rule.experts, ld = 2 * rule.chosen + 3;
    std::vector<float> out(static_cast<size_t>(rows * ld), NAN);
    in_parts(2, [&](Part part) {
      table().run<RouteArgs>({logits.data(), rule.experts, rule, bias, out.data(), ld}, rows, part);
    });
    std::vector<Choice> choices(static_cast<size_t>(rows));
    for (int r = 0; r < rows; ++r) {
      Choice& choice = choices[static_cast<size_t>(r)];
      choice.ids.resize(static_cast<size_t>(rule.chosen));
      std::memcpy(choice.ids.data(), out.data() + r * ld, choice.ids.size() * 4);
      choice.weights.assign(out.begin() + r * ld + rule.chosen, out.begin() + r * ld + 2 * rule.chosen);
    }
    return choices;
  }
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST_P(Experts, softmax_weights_are_shares_of_all_experts_unless_normalised) {
  const std::vector<float> logits{0.5f, -1.0f, 2.0f, 1.5f};
  double all = 0;
  for (float x : logits) all += std::exp(x);
  const auto plain = route({.experts = 4, .chosen = 2}, logits)[0];
  EXPECT_EQ(plain.ids, (std::vector<int32_t>{2, 3}));
  EXPECT_NEAR(plain.weights[0], std::exp(2.0) / all, 1e-6);
  EXPECT_NEAR(plain.weights[1], std::exp(1.5) / all, 1e-6);
  const auto normal = route({.experts = 4, .chosen = 2, .normalize = true, .scale = 2.5f}, logits)[0];
  EXPECT_NEAR(normal.weights[0], 2.5 * std::exp(2.0) / (std::exp(2.0) + std::exp(1.5)), 1e-5);
}

TEST_P(Experts, ids_ascend_and_equal_logits_go_to_the_lower_id) {
  const auto choice = route({.experts = 5, .chosen = 3}, {1, 7, 1, 9, 1})[0];
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{0, 1, 3}));
}

TEST_P(Experts, sigmoid_router_chooses_by_biased_score_within_the_best_groups) {
  // Three groups of two. Biased scores: group 0 has the single best expert, but its two best sum to less than group
  // 1's.
  const std::vector<float> logits{2.0f, -3.0f, 1.0f, 0.9f, 0.2f, 0.1f}, bias{0.0f, 0.0f, 0.1f, 0.1f, 0.0f, 0.9f};
  const RouteRule rule{.kind = RouteRule::Kind::sigmoid,
                       .experts = 6,
                       .chosen = 2,
                       .groups = 3,
                       .kept_groups = 2,
                       .normalize = true,
                       .scale = 2};
  // group sums: 0.88 + 0.05, 0.83 + 0.81, 0.55 + 1.42: groups 1 and 2; of them 5 (1.42) and 2 (0.83).
  const auto choice = route(rule, logits, bias.data())[0];
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{2, 5}));
  const double a = sigmoid(1.0f), b = sigmoid(0.1f);  // weights leave the bias out
  EXPECT_NEAR(choice.weights[0], 2 * a / (a + b), 1e-5);
  EXPECT_NEAR(choice.weights[1], 2 * b / (a + b), 1e-5);
}

TEST_P(Experts, hidden_groups_stay_hidden_when_scores_are_negative) {
  const std::vector<float> logits{-1, -1, -1, -1}, bias{-5, -5, -9, -9};
  const RouteRule rule{.kind = RouteRule::Kind::sigmoid, .experts = 4, .chosen = 2, .groups = 2, .kept_groups = 1};
  EXPECT_EQ(route(rule, logits, bias.data())[0].ids, (std::vector<int32_t>{0, 1}));
}

TEST_P(Experts, sigmoid_after_weighs_by_the_chosen_logit) {
  const auto choice =
      route({.kind = RouteRule::Kind::sigmoid_after, .experts = 3, .chosen = 1}, {0.3f, 1.2f, -4.0f})[0];
  EXPECT_EQ(choice.ids, (std::vector<int32_t>{1}));
  EXPECT_NEAR(choice.weights[0], sigmoid(1.2), 1e-6);
}

// Rows go through their experts, are weighed and summed: the whole path against double precision, and every row alone
// gives the same bits as in the batch.
TEST_P(Experts, products_over_grouped_rows) {
  for (WeightForm form : {WeightForm::f32, WeightForm::bf16})
    for (int rows : {1, 2, 9, 40}) {
      const int experts = 5, slots = 2, hidden = 37, width = 21, stride = 32, ld_y = slots * stride;
      const RouteRule rule{.experts = experts, .chosen = slots, .normalize = true};
      const auto logits = random_floats(static_cast<size_t>(rows * experts), 3),
                 x = random_floats(static_cast<size_t>(rows * hidden), 4);
      std::vector<std::vector<float>> weights;
      std::vector<Packed> matrices;
      for (int e = 0; e < experts; ++e) {
        weights.push_back(random_floats(static_cast<size_t>(width * hidden), 10u + static_cast<uint32_t>(e)));
        matrices.push_back(packed(table(), form, weights.back(), width, hidden, 1));
      }
      const Operand operand = table().operand(form);
      const int64_t ld_x = 48;
      const auto operand_bytes = as_operand(x, rows, hidden, ld_x, operand);
      const auto run = [&](int first, int count, int parts) {
        std::vector<float> chosen(static_cast<size_t>(count * 2 * slots)), y(static_cast<size_t>(count * ld_y), NAN),
            out(static_cast<size_t>(count * width));
        std::vector<int32_t> grouped(static_cast<size_t>(experts + 1 + count * slots));
        in_parts(parts, [&](Part part) {
          table().run<RouteArgs>({logits.data() + first * experts, experts, rule, nullptr, chosen.data(), 2 * slots},
                                 count, part);
        });
        in_parts(parts, [&](Part part) {
          table().run<GroupRowsArgs>({chosen.data(), 2 * slots, experts, slots, grouped.data()}, count, part);
        });
        EXPECT_EQ(grouped[experts], count * slots);
        for (int e = 0; e < experts; ++e) {
          LinearArgs a;
          a.x = operand_bytes.data() + first * ld_x * operand_size_bytes(operand), a.ld_x = ld_x, a.x_share = slots;
          a.w = matrices[static_cast<size_t>(e)].matrix, a.y = y.data(), a.ld_y = stride,
          a.row_map = grouped.data() + experts + 1 + grouped[static_cast<size_t>(e)];
          const int n = grouped[static_cast<size_t>(e) + 1] - grouped[static_cast<size_t>(e)];
          if (n > 0) in_parts(parts, [&](Part part) { table().run(a, n, part); });
        }
        in_parts(parts, [&](Part part) {
          table().run<CombineArgs>({experts, 0, experts, y.data(), ld_y, chosen.data(), 2 * slots, width, slots, stride,
                                    true, out.data(), width},
                                   count, part);
        });
        return out;
      };
      const std::vector<float> all = run(0, rows, 1);
      EXPECT_EQ(bits_of(all), bits_of(run(0, rows, 3)));
      const auto choices = route(rule, logits);
      for (int r = 0; r < rows; ++r) {
        const std::vector<float> own(all.begin() + r * width, all.begin() + (r + 1) * width);
        EXPECT_EQ(bits_of(own), bits_of(run(r, 1, 1)));
        for (int n = 0; n < width; ++n) {
          double want = 0;
          for (int j = 0; j < slots; ++j) {
            double dot = 0;
            for (int k = 0; k < hidden; ++k) {
              float a = x[static_cast<size_t>(r * hidden + k)],
                    b = weights[static_cast<size_t>(choices[static_cast<size_t>(r)].ids[static_cast<size_t>(j)])]
                               [static_cast<size_t>(n * hidden + k)];
              if (form == WeightForm::bf16) a = rounded_bf16(a), b = rounded_bf16(b);
              dot += static_cast<double>(a) * b;
            }
            want += static_cast<double>(choices[static_cast<size_t>(r)].weights[static_cast<size_t>(j)]) * dot;
          }
          ASSERT_NEAR(own[static_cast<size_t>(n)], want, 2e-5) << r << " " << n;
        }
      }
    }
}

TEST_P(Experts, scaled_rows) {
  const int rows = 3, cols = 19, slots = 2, stride = 32;
  const auto x = random_floats(static_cast<size_t>(rows * cols), 8);
  std::vector<float> chosen(static_cast<size_t>(rows * 2 * slots));
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < slots; ++j)
      chosen[static_cast<size_t>(r * 2 * slots + slots + j)] = 0.25f * static_cast<float>(r + 2 * j + 1);
  std::vector<float> out(static_cast<size_t>(rows * slots * stride), NAN);
  in_parts(2, [&](Part part) {
    table().run<ScaleRowsArgs>(
        {x.data(), cols, chosen.data(), 2 * slots, cols, slots, stride, Operand::f32, out.data(), slots * stride}, rows,
        part);
  });
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < slots; ++j)
      for (int c = 0; c < cols; ++c)
        ASSERT_EQ(out[static_cast<size_t>((r * slots + j) * stride + c)],
                  x[static_cast<size_t>(r * cols + c)] * (0.25f * static_cast<float>(r + 2 * j + 1)));
}

WEFT_TEST_TABLES(Experts);

}  // namespace
}  // namespace weft::kernels
