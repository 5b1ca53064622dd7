// Putting the parts of ranks together, on every table: bits that only the stated order of additions gives, bytes that
// are moved and never computed with, and experts whose sums several ranks have.
#include <cmath>
#include <limits>

#include "kernels/conformance.h"

namespace weft::kernels {
namespace {

class Ranks : public TableTest {
 protected:
  // Runs with every number of parts, over `before`, and returns what the output holds, the same each time.
  template <class Args>
  std::vector<float> run(Args args, int rows, const std::vector<float>& before) const {
    std::vector<float> first;
    for (const int count : kPartCounts) {
      std::vector<float> out = before;
      args.out = out.data();
      if constexpr (requires { args.residual; })
        if (args.residual == before.data()) args.residual = out.data();
      in_parts(count, [&](Part part) { table().run(args, rows, part); });
      if constexpr (requires { args.residual; })
        if (args.residual == out.data()) args.residual = before.data();
      if (first.empty()) first = out;
      EXPECT_EQ(bits_of(out), bits_of(first)) << count << " parts";
    }
    return first;
  }
};

// What parts [rows, ld] of `count` ranks hold, and their addresses.
struct RankParts {
  std::vector<std::vector<float>> values;
  std::vector<const float*> addresses;
  RankParts(int count, size_t size, uint32_t seed) {
    for (int p = 0; p < count; ++p) values.push_back(random_floats(size, seed + static_cast<uint32_t>(p), -9, 9));
    point();
  }
  explicit RankParts(std::vector<std::vector<float>> given) : values(std::move(given)) { point(); }
  RankParts(const RankParts&) = delete;
  void point() {
    for (const auto& part : values) addresses.push_back(part.data());
  }
};

// Sums worked out by hand: half a unit in the last place of 1, 2^-24, is lost when it is added to 1 alone, and so are
// small numbers beside 1e8, whose unit is 8.
TEST_P(Ranks, reduce_adds_as_a_tree) {
  constexpr float kTiny = 0x1p-24f;
  const struct {
    std::vector<float> parts;
    float tree, ascending;
  } cases[] = {
      {{1, kTiny, kTiny, kTiny}, 1 + 0x1p-23f, 1},         // (1 + t) + (t + t); ((1 + t) + t) + t stays 1
      {{1, kTiny, 1, kTiny}, 2, 2},                        //
      {{kTiny, kTiny, 1, 0}, 1 + 0x1p-23f, 1 + 0x1p-23f},  //
      {{1e8f, 1, -1e8f, 1}, 0, 1},                         // (1e8 + 1) + (-1e8 + 1); from left to right 0 + 1
      {{1, 1e8f, 1, -1e8f}, 0, 0},                         //
      {{1, kTiny, kTiny, kTiny, kTiny, kTiny, kTiny, kTiny}, 1 + 0x1.8p-22f, 1},  // 1 + 2t, then + 4t = 1 + 6t
      {{1e8f, -1e8f, 3, 4, 1e8f, 5, -1e8f, 6}, 23, 22},  // 7 + ((1e8 + 8) - (1e8 - 8)); 1e8 + 8, + 16, 16, 22
      {{3, -1e8f}, -1e8f, -1e8f},
      {{5}, 5, 5},
  };
  for (const auto& c : cases) {
    float ascending = 0;
    for (const float part : c.parts) ascending += part;
    EXPECT_EQ(ascending, c.ascending) << "the case itself";
    for (const int cols : {1, 7, 16, 33}) {
      std::vector<std::vector<float>> values;
      for (const float part : c.parts) values.emplace_back(static_cast<size_t>(2 * cols), part);
      const RankParts parts(std::move(values));
      ReduceArgs args{.parts = parts.addresses.data(),
                      .count = static_cast<int>(c.parts.size()),
                      .ld_part = cols,
                      .cols = cols,
                      .ld_out = cols};
      for (const float got : run(args, 2, std::vector<float>(static_cast<size_t>(2 * cols), NAN)))
        EXPECT_EQ(got, c.tree) << c.parts.size() << " parts, " << cols << " columns";
    }
  }
}

// The bias comes behind the tree and the residual last: (1 + 2^-24) + 2^-24 stays 1.
TEST_P(Ranks, reduce_adds_bias_then_residual) {
  const RankParts parts({{1, 1e8f, 1}, {0, -1e8f, 0}});
  const std::vector<float> bias{0x1p-24f, 1, 0x1p-24f}, residual{0x1p-24f, 0x1p-24f, -1};
  ReduceArgs args{.parts = parts.addresses.data(),
                  .count = 2,
                  .ld_part = 3,
                  .cols = 3,
                  .bias = bias.data(),
                  .residual = residual.data(),
                  .ld_residual = 3,
                  .ld_out = 3};
  EXPECT_EQ(run(args, 1, {NAN, NAN, NAN}), (std::vector<float>{1, 1, 0}));
}

TEST_P(Ranks, reduce_of_any_shape) {
  for (const int count : {1, 2, 4, 8})
    for (const int cols : {1, 5, 16, 31, 130})
      for (const bool in_place : {false, true}) {
        const int rows = 3, ld_part = cols + 2, ld_out = cols + 5;
        const RankParts parts(count, static_cast<size_t>(rows * ld_part), 1);
        const std::vector<float> before = random_floats(static_cast<size_t>(rows * ld_out), 90),
                                 bias = random_floats(static_cast<size_t>(cols), 91),
                                 residual = random_floats(static_cast<size_t>(rows * ld_out), 92);
        const std::vector<float>& added = in_place ? before : residual;
        ReduceArgs args{.parts = parts.addresses.data(),
                        .count = count,
                        .ld_part = ld_part,
                        .cols = cols,
                        .bias = bias.data(),
                        .residual = added.data(),
                        .ld_residual = ld_out,
                        .ld_out = ld_out};
        const std::vector<float> got = run(args, rows, before);
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < ld_out; ++c) {
            const auto at = static_cast<size_t>(r * ld_out + c);
            if (c >= cols) {
              ASSERT_EQ(got[at], before[at]) << "behind the columns";
              continue;
            }
            double want = static_cast<double>(bias[static_cast<size_t>(c)]) + added[at];
            for (const auto& part : parts.values) want += part[static_cast<size_t>(r * ld_part + c)];
            ASSERT_NEAR(got[at], want, 1e-5);
          }
      }
}

float from_bits(uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Signed zeros, denormals, infinities, and NaN of both kinds with their payloads.
const uint32_t kOddBits[] = {0x80000000, 0x00000001, 0x807fffff, 0x7f800000, 0xff800000, 0x7fc12345,
                             0xff812345, 0x7f800001, 0x3f800000, 0x00800000, 0xffffffff};

TEST_P(Ranks, picked_rows_keep_every_bit) {
  for (const int count : {1, 2, 4, 8})
    for (const int cols : {1, 11, 16, 45}) {
      const int rows = count + 1, ld = cols + 3;  // the last row belongs to no rank
      std::vector<std::vector<float>> values(static_cast<size_t>(count),
                                             std::vector<float>(static_cast<size_t>(rows * ld), 0.0f));
      std::vector<uint32_t> want(static_cast<size_t>(rows * cols));
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < cols; ++c) {
          const uint32_t bits = kOddBits[static_cast<size_t>(r + c) % std::size(kOddBits)];
          values[static_cast<size_t>(count - 1 - r)][static_cast<size_t>(r * ld + c)] = from_bits(bits);
          want[static_cast<size_t>(r * cols + c)] = bits;
        }
      const RankParts parts(std::move(values));
      PickRowsArgs args{.parts = parts.addresses.data(), .count = count, .ld_part = ld, .cols = cols, .ld_out = cols};
      EXPECT_EQ(bits_of(run(args, rows, std::vector<float>(want.size(), 7.0f))), want) << count << " of " << cols;
    }
}

TEST_P(Ranks, joined_columns) {
  for (const int count : {1, 2, 3, 8})
    for (const int cols : {1, 7, 16, 40})
      for (int last = 1; last <= cols; last += cols > 7 ? 13 : 3) {
        const int rows = 3, ld_part = cols + 1, all = (count - 1) * cols + last, ld_out = all + 2;
        RankParts parts(count, static_cast<size_t>(rows * ld_part), 5);
        parts.values[0][0] = from_bits(kOddBits[6]);
        const std::vector<float> before(static_cast<size_t>(rows * ld_out), -7.0f);
        JoinColumnsArgs args{.parts = parts.addresses.data(),
                             .count = count,
                             .ld_part = ld_part,
                             .cols = cols,
                             .all_cols = all,
                             .ld_out = ld_out};
        const std::vector<uint32_t> got = bits_of(run(args, rows, before));
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < ld_out; ++c) {
            const float* want =
                c < all ? &parts.values[static_cast<size_t>(c / cols)][static_cast<size_t>(r * ld_part + c % cols)]
                        : &before[0];
            ASSERT_EQ(got[static_cast<size_t>(r * ld_out + c)], bits_of({*want})[0]) << count << " parts, column " << c;
          }
      }
}

TEST_P(Ranks, joined_rows) {
  const std::vector<std::vector<int32_t>> all_firsts = {{0, 3},          {0, 0, 4},    {0, 5, 5},
                                                        {0, 2, 2, 2, 7}, {0, 0, 0, 1}, {0, 0, 0}};
  for (const std::vector<int32_t>& first : all_firsts)
    for (const int cols : {1, 9, 32}) {
      const int count = static_cast<int>(first.size()) - 1, rows = first.back(), ld = cols + 3;
      RankParts parts(count, static_cast<size_t>(7 * ld), 5);
      parts.values.back()[0] = from_bits(kOddBits[5]);
      JoinRowsArgs args{.parts = parts.addresses.data(),
                        .count = count,
                        .first = first.data(),
                        .ld_part = ld,
                        .cols = cols,
                        .ld_out = cols};
      const std::vector<float> got = run(args, rows, std::vector<float>(static_cast<size_t>(rows * cols) + 1, -7.0f));
      EXPECT_EQ(got.back(), -7.0f);
      size_t at = 0;
      for (int p = 0; p < count; ++p)
        for (int r = 0; r < first[static_cast<size_t>(p) + 1] - first[static_cast<size_t>(p)]; ++r)
          for (int c = 0; c < cols; ++c, ++at)
            ASSERT_EQ(bits_of({got[at]}),
                      bits_of({parts.values[static_cast<size_t>(p)][static_cast<size_t>(r * ld + c)]}));
    }
}

// A share of the ids: other ids give zeros, and the shares put together give the rows of all ids.
TEST_P(Ranks, embeddings_of_a_share_of_the_ids) {
  const int vocab = 75, cols = 33;
  const auto w = random_floats(static_cast<size_t>(vocab * cols), 8);
  const std::vector<int32_t> ids{74, 0, 31, 32, -1, 63, 64};
  const int rows = static_cast<int>(ids.size());
  const std::pair<int, int> shares[] = {{0, 32}, {32, 32}, {64, 11}};
  const auto value = [&](int id, int c, bool exact) {
    const float stored = w[static_cast<size_t>(id * cols + c)];
    return 2 * (exact ? stored : rounded_bf16(stored));
  };
  for (const int kind : {0, 1, 2}) {  // plain rows, packed in float32, packed in bfloat16
    std::vector<std::vector<float>> outputs;
    for (const auto& [first, count] : shares) {
      const std::vector<float> own(w.begin() + first * cols, w.begin() + (first + count) * cols);
      const Packed matrix = packed(table(), kind == 2 ? WeightForm::bf16 : WeightForm::f32, own, count, cols, 1);
      EmbedArgs args{.ids = ids.data(), .first_id = first, .id_count = count, .cols = cols, .scale = 2, .ld_out = cols};
      if (kind == 0) args.row_data = own.data(), args.row_type = DType::f32;
      else args.packed = matrix.matrix;
      outputs.push_back(run(args, rows, std::vector<float>(static_cast<size_t>(rows * cols), NAN)));
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) {
          const int id = ids[static_cast<size_t>(r)];
          const float want = id >= first && id < first + count ? value(id, c, kind < 2) : 0.0f;
          ASSERT_EQ(bits_of({outputs.back()[static_cast<size_t>(r * cols + c)]}), bits_of({want})) << id;
        }
    }
    const RankParts parts(std::move(outputs));
    const PickRowsArgs pick{.parts = parts.addresses.data(), .count = 3, .ld_part = cols, .cols = cols, .ld_out = cols};
    const std::vector<float> all = run(pick, rows, std::vector<float>(static_cast<size_t>(rows * cols), NAN));
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) {
        const int id = ids[static_cast<size_t>(r)];
        ASSERT_EQ(all[static_cast<size_t>(r * cols + c)], id < 0 ? 0.0f : value(id, c, kind < 2)) << id;
      }
  }
}

// Rows of chosen experts with their results, for CombineArgs.
struct Chosen {
  int experts, slots, cols, rows, stride, ld_x, ld_chosen;
  std::vector<float> x, chosen;
  std::vector<std::vector<int>> ids;
  Chosen(int of_experts, int of_slots, int of_cols, int of_rows)
      : experts(of_experts), slots(of_slots), cols(of_cols), rows(of_rows), stride((of_cols + 15) / 16 * 16),
        ld_x(of_slots * stride + 16), ld_chosen(2 * of_slots + 1),
        x(random_floats(static_cast<size_t>(of_rows * ld_x), 3, -5, 5)),
        chosen(static_cast<size_t>(of_rows * ld_chosen)) {
    std::mt19937 random(7);
    for (int r = 0; r < rows; ++r) {
      std::vector<int> all(static_cast<size_t>(experts));
      for (int e = 0; e < experts; ++e) all[static_cast<size_t>(e)] = e;
      std::shuffle(all.begin(), all.end(), random);
      if (r == 0) std::sort(all.begin(), all.end());  // the lowest ids: all of the first rank's
      all.resize(static_cast<size_t>(slots));
      std::sort(all.begin(), all.end());
      for (int j = 0; j < slots; ++j) {
        const int32_t id = all[static_cast<size_t>(j)];
        std::memcpy(&chosen[static_cast<size_t>(r * ld_chosen + j)], &id, sizeof id);
        chosen[static_cast<size_t>(r * ld_chosen + slots + j)] = static_cast<float>(random() % 1000) / 700.0f - 0.3f;
      }
      ids.push_back(std::move(all));
    }
  }
};

TEST_P(Ranks, sums_of_experts_join_to_the_sum_of_all) {
  const std::tuple<int, int> kinds[] = {{8, 3}, {16, 6}, {64, 8}, {4, 2}, {2, 2}, {24, 24}};
  for (const auto& [experts, slots] : kinds)
    for (const bool weighted : {true, false})
      for (const int cols : {5, 16, 37}) {
        const Chosen c(experts, slots, cols, 6);
        const auto sum_of = [&](int first, int last) {
          CombineArgs args{.experts = c.experts,
                           .first_expert = first,
                           .last_expert = last,
                           .x = c.x.data(),
                           .ld_x = c.ld_x,
                           .chosen = c.chosen.data(),
                           .ld_chosen = c.ld_chosen,
                           .cols = cols,
                           .slots = c.slots,
                           .slot_stride = c.stride,
                           .weighted = weighted,
                           .ld_out = cols};
          return run(args, c.rows, std::vector<float>(static_cast<size_t>(c.rows * cols), NAN));
        };
        const std::vector<float> all = sum_of(0, experts);
        for (int ranks = 1; ranks <= expert_groups(experts); ranks *= 2) {
          std::vector<std::vector<float>> sums;
          for (int r = 0; r < ranks; ++r) sums.push_back(sum_of(experts / ranks * r, experts / ranks * (r + 1)));
          // Row 0 has the lowest experts only: the ranks behind them have +0.
          for (int r = 0; r < ranks; ++r)
            if (experts / ranks * r >= slots) {
              for (int n = 0; n < cols; ++n)
                EXPECT_EQ(bits_of({sums[static_cast<size_t>(r)][static_cast<size_t>(n)]})[0], 0u);
            }
          const RankParts parts(std::move(sums));
          ReduceArgs args{
              .parts = parts.addresses.data(), .count = ranks, .ld_part = cols, .cols = cols, .ld_out = cols};
          EXPECT_EQ(bits_of(run(args, c.rows, all)), bits_of(all)) << ranks << " ranks, " << experts << " experts";
        }
        for (int r = 0; r < c.rows; ++r)
          for (int n = 0; n < cols; ++n) {
            double want = 0;
            for (int j = 0; j < slots; ++j)
              want += static_cast<double>(c.x[static_cast<size_t>(r * c.ld_x + j * c.stride + n)]) *
                      (weighted ? c.chosen[static_cast<size_t>(r * c.ld_chosen + slots + j)] : 1.0f);
            ASSERT_NEAR(all[static_cast<size_t>(r * cols + n)], want, 3e-5);
          }
      }
}

// Eight experts are eight groups, added in pairs of ids, whichever a row has chosen. With t = 2^-24: (1 + t) + (t + t);
// (1 + t) + (t + t) again, from other pairs; ((1 + t) + t) + t; and 1 + (t + 2t), a tie that goes to the even 1 + 4t.
TEST_P(Ranks, experts_are_added_as_a_tree_of_ids) {
  constexpr float kTiny = 0x1p-24f;
  const struct {
    int32_t ids[4];
    float want;
  } cases[] = {
      {{0, 1, 2, 3}, 1 + 0x1p-23f}, {{0, 2, 4, 6}, 1 + 0x1p-23f}, {{0, 1, 2, 7}, 1}, {{0, 5, 6, 7}, 1 + 0x1p-22f}};
  for (const auto& c : cases) {
    std::vector<float> chosen(8), x(4 * 16, NAN);
    std::memcpy(chosen.data(), c.ids, sizeof c.ids);
    for (int j = 0; j < 4; ++j)
      chosen[static_cast<size_t>(4 + j)] = 1, x[static_cast<size_t>(16 * j)] = j == 0 ? 1 : kTiny;
    CombineArgs args{.experts = 8,
                     .first_expert = 0,
                     .last_expert = 8,
                     .x = x.data(),
                     .ld_x = 64,
                     .chosen = chosen.data(),
                     .ld_chosen = 8,
                     .cols = 1,
                     .slots = 4,
                     .slot_stride = 16,
                     .ld_out = 1};
    EXPECT_EQ(run(args, 1, {NAN})[0], c.want) << c.ids[1] << c.ids[2] << c.ids[3];
  }
}

WEFT_TEST_TABLES(Ranks);

}  // namespace
}  // namespace weft::kernels
