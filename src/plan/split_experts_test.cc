// Experts on ranks that share their width: every number of sets has the bits of one rank.
#include <gtest/gtest.h>

#include <algorithm>

#include "plan/small_model.h"
#include "plan/split.h"
#include "plan/split_runs.h"

namespace weft {
namespace {

using kernels::WeightForm;
using Mlp = SmallModel::Mlp;

const SmallModel kModels[] = {
    {.name = "two_tensors", .kv_heads = 4, .width = 48, .mlp = Mlp::experts, .shared_expert = true},
    {.name = "latent", .width = 40, .mlp = Mlp::experts, .experts = 16, .chosen = 5, .latent = true},
    {.name = "one_tensor", .width = 32, .mlp = Mlp::experts_of_one_tensor, .chosen = 1},
    {.name = "scaled_rows",
     .width = 24,
     .mlp = Mlp::experts_of_scaled_rows,
     .chosen = 1,
     .shared_expert = true,
     .taps = true},
    {.name = "six_experts", .hidden = 80, .kv_heads = 2, .width = 56, .mlp = Mlp::experts, .experts = 6},
};

const Format kFormats[] = {
    {"float32", {.form = WeightForm::f32}},
    {"bfloat16", {.form = WeightForm::bf16}, DType::bf16},
    {"bfloat16_in_12_bits", {.form = WeightForm::bf16}, DType::bf16, true},
    {"int8", {.form = WeightForm::bf16, .quantize = Quantize::int8}, DType::bf16},
    {"int4", {.form = WeightForm::bf16, .quantize = Quantize::int4}},
    {"int4_over_float_rows", {.form = WeightForm::f32, .quantize = Quantize::int4}},
};

// The largest power of two up to 8 that divides the experts: written down, not computed as the code does.
int groups_of(const SmallModel& model) { return model.experts == 6 ? 2 : 8; }

// Layouts of 2, 4 and 8 ranks with every number of sets that the model can have, 0 among them.
std::vector<RankLayout> layouts_of(const SmallModel& model, bool attention_dp) {
  std::vector<RankLayout> layouts;
  for (const int ranks : {2, 4, 8})
    for (const int sets : {0, 1, 2, 4, 8})
      if (sets <= std::min(ranks, groups_of(model)))
        layouts.push_back({.tensor = ranks, .experts = sets, .attention_dp = attention_dp});
  return layouts;
}

std::string text_of(const RankLayout& layout) {
  return std::to_string(layout.tensor) + " ranks, " + std::to_string(layout.experts) + " sets";
}

void expect_same(const RankedRun& ranks, const RankedRun& one) {
  ASSERT_EQ(one.error, "");
  ASSERT_EQ(ranks.error, "");
  EXPECT_TRUE(ranks.outputs == one.outputs);
  EXPECT_TRUE(ranks.taps == one.taps);
}

class SplitExperts : public ::testing::TestWithParam<std::tuple<SmallModel, Format>> {};

TEST_P(SplitExperts, EveryNumberOfSetsGivesTheBitsOfOneRank) {
  const auto& [model, format] = GetParam();
  const Plan plan = record(model);
  const auto checkpoint = dummy_weights();
  for (const kernels::CpuTable* table : {&kernels::ref_table(), kernels::available_tables().back()}) {
    RunOptions options{.table = table, .formats = format.options, .pack = format.pack, .cache = format.cache};
    const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
    for (const RankLayout& layout : layouts_of(model, false)) {
      SCOPED_TRACE(std::string(table->isa) + ", " + text_of(layout));
      options.threads_per_rank = layout.tensor == 4 ? 2 : 1, options.replay = layout.tensor != 8;
      expect_same(run_on_ranks(plan, checkpoint, layout, options), one);
    }
  }
}

// Ranks with rows of their own, some with none.
TEST_P(SplitExperts, HomesGiveTheBitsOfOneRank) {
  const auto& [model, format] = GetParam();
  const Plan plan = record(model);
  const auto checkpoint = dummy_weights();
  RunOptions options{.table = kernels::available_tables().back(),
                     .formats = format.options,
                     .pack = format.pack,
                     .cache = format.cache};
  const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
  for (const RankLayout& layout : layouts_of(model, true)) {
    SCOPED_TRACE(text_of(layout));
    options.home_of = {0, 1, layout.tensor - 1}, options.threads_per_rank = layout.tensor == 2 ? 2 : 1;
    expect_same(run_on_ranks(plan, checkpoint, layout, options), one);
  }
}

INSTANTIATE_TEST_SUITE_P(, SplitExperts,
                         ::testing::Combine(::testing::ValuesIn(kModels), ::testing::ValuesIn(kFormats)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
                         });

TEST(SplitExpertsFp8, EveryNumberOfSets) {
  const SmallModel model{.hidden = 128, .kv_heads = 4, .dim = 32, .width = 96, .mlp = Mlp::experts};
  const Plan plan = record(model);
  for (const int64_t block : {0, 32, 64}) {
    const auto checkpoint = fp8_weights(plan, block);
    for (const WeightForm form : {WeightForm::bf16, WeightForm::f32}) {
      const RunOptions options{.table = kernels::available_tables().back(), .formats = {.form = form}};
      const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
      for (const bool attention_dp : {false, true})
        for (const RankLayout& layout : layouts_of(model, attention_dp)) {
          SCOPED_TRACE(std::to_string(block) + ": " + text_of(layout));
          expect_same(run_on_ranks(plan, checkpoint, layout, options), one);
        }
    }
  }
}

// Widths of odd length, on numbers of ranks that are no powers of two.
TEST(SplitExpertsShapes, ThreeAndSixRanks) {
  const SmallModel model{
      .hidden = 48, .heads = 6, .kv_heads = 6, .width = 33, .vocab = 150, .mlp = Mlp::experts, .shared_expert = false};
  const Plan plan = record(model);
  const auto checkpoint = dummy_weights();
  for (const WeightForm form : {WeightForm::f32, WeightForm::bf16}) {
    const RunOptions options{.table = kernels::available_tables().back(), .formats = {.form = form}};
    const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
    for (const RankLayout& layout : std::initializer_list<RankLayout>{
             {.tensor = 3}, {.tensor = 3, .experts = 1}, {.tensor = 6}, {.tensor = 6, .experts = 2}}) {
      SCOPED_TRACE(text_of(layout));
      expect_same(run_on_ranks(plan, checkpoint, layout, options), one);
    }
  }
}

// ---- What a rank holds.

struct Held {
  int experts = 0, width = 0, columns = 0;  // of each layer
  bool operator==(const Held&) const = default;
};
Held held(const SmallModel& model, const RankLayout& layout, int rank) {
  const auto share = split_plan(record(model), layout, rank);
  EXPECT_TRUE(share.ok()) << share.error().to_string();
  Held held;
  for (const Op& op : share->ops)
    if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
      held.experts = static_cast<int>(experts->matrices.size());
      const Matrix& m = share->matrices[static_cast<size_t>(experts->matrices.front())];
      (experts->same_input ? held.width : held.columns) = static_cast<int>(m.out());
    }
  return held;
}

TEST(SplitExpertsHold, TheirPart) {
  const SmallModel eight{.width = 96, .mlp = Mlp::experts}, six{.width = 96, .mlp = Mlp::experts, .experts = 6};
  for (const int rank : {0, 3}) {
    EXPECT_EQ(held(eight, {.tensor = 4}, rank), (Held{2, 192, 64}));
    EXPECT_EQ(held(eight, {.tensor = 4, .experts = 4}, rank), (Held{2, 192, 64}));
    EXPECT_EQ(held(eight, {.tensor = 4, .experts = 2}, rank), (Held{4, 96, 32}));
    EXPECT_EQ(held(eight, {.tensor = 4, .experts = 1}, rank), (Held{8, 48, 16}));
    EXPECT_EQ(held(six, {.tensor = 4}, rank), (Held{3, 96, 32}));
    EXPECT_EQ(held(six, {.tensor = 8}, rank), (Held{3, 48, 16}));
    EXPECT_EQ(held(six, {.tensor = 4, .attention_dp = true}, rank), (Held{3, 96, 32}));
  }
}

TEST(SplitExpertsHold, RanksOfASetHaveTheSameExperts) {
  const SmallModel model{.width = 96, .mlp = Mlp::experts};
  for (int rank = 0; rank < 4; ++rank) {
    const auto share = split_plan(record(model), {.tensor = 4, .experts = 2}, rank);
    ASSERT_TRUE(share.ok());
    for (const Op& op : share->ops)
      if (const auto* experts = std::get_if<ExpertsOp>(&op.kind); experts && experts->same_input) {
        EXPECT_EQ(experts->first_expert, rank < 2 ? 0 : 4);
        const Matrix& m = share->matrices[static_cast<size_t>(experts->matrices.front())];
        ASSERT_EQ(m.sources.size(), 2u);  // gate and up
        for (const TensorRows& source : m.sources) EXPECT_EQ(source.first_row, rank % 2 * 48);
      }
  }
}

TEST(SplitExpertsHold, OnlyCutExpertsAreReported) {
  const Plan plan = record({.mlp = Mlp::experts, .experts = 6});
  EXPECT_FALSE(cuts_experts(plan, {}));
  EXPECT_FALSE(cuts_experts(plan, {.tensor = 2}));
  EXPECT_TRUE(cuts_experts(plan, {.tensor = 4}));
  EXPECT_TRUE(cuts_experts(plan, {.tensor = 2, .experts = 1}));
  EXPECT_FALSE(cuts_experts(record({}), {.tensor = 4, .experts = 1}));
}

// ---- What is refused.

void expect_refusal(const SmallModel& model, const RankLayout& layout, std::initializer_list<const char*> words) {
  const auto share = split_plan(record(model), layout, 0);
  ASSERT_FALSE(share.ok());
  EXPECT_EQ(share.error().code(), Code::invalid_argument);
  for (const char* word : words) EXPECT_NE(share.error().to_string().find(word), std::string::npos) << word;
}

TEST(SplitExpertsRefuse, WithTheNumbers) {
  const SmallModel six{.mlp = Mlp::experts, .experts = 6};
  for (const SmallModel& model : {six, SmallModel{}})
    expect_refusal(model, {.tensor = 4, .experts = 3}, {"--ep-size 3", "--tp-size 4"});
  expect_refusal(six, {.tensor = 4, .experts = 4}, {"6 experts", "4 ranks", "2 groups"});
  expect_refusal(six, {.tensor = 8, .experts = 4, .attention_dp = true}, {"6 experts", "4 sets", "2 groups"});
  expect_refusal({.width = 90, .mlp = Mlp::experts}, {.tensor = 4, .experts = 1},
                 {"90 columns", "layer1.expert0.down", "4 ranks of a set", "1 set)"});
  expect_refusal({.hidden = 68, .mlp = Mlp::experts}, {.tensor = 8, .experts = 1, .attention_dp = true},
                 {"68 columns", "8 ranks of a set"});
  expect_refusal({.width = 33, .mlp = Mlp::experts, .experts = 6}, {.tensor = 4}, {"33 columns", "2 ranks of a set"});
}

// ---- Partial sums.

// The share of rank 0 of two, and the storage that its first op of a kind which `is_partial` writes.
template <class IsPartial>
std::pair<Plan, Value> share_with_partial(const SmallModel& model, IsPartial is_partial) {
  auto share = split_plan(record(model), {.tensor = 2}, 0);
  EXPECT_TRUE(share.ok());
  for (const Op& op : share->ops)
    if (is_partial(op)) return {*share, *op.out};
  ADD_FAILURE() << "no partial sum";
  return {*share, {}};
}

TEST(PartialSumsDeathTest, AreReadByTheirCollectiveAlone) {
  const auto of_linear = [](const Op& op) {
    const auto* linear = std::get_if<LinearOp>(&op.kind);
    return linear && linear->partial;
  };
  const auto of_combine = [](const Op& op) { return std::holds_alternative<CombineOp>(op.kind); };
  for (const auto& [plan, sum] :
       {share_with_partial({}, of_linear), share_with_partial({.mlp = Mlp::experts}, of_combine)}) {
    check_partial_sums(plan);
    Plan added = plan;
    added.ops.push_back({kernels::Add{}, {plan.output, sum}, plan.output, "layer9"});
    EXPECT_DEATH(check_partial_sums(added), "add of layer9 reads a partial sum");
    Plan gathered = plan;
    for (Op& op : gathered.ops)
      if (!op.in.empty() && op.in[0] == sum) op.kind = AllGatherOp{};
    EXPECT_DEATH(check_partial_sums(gathered), "all_gather of .* reads a partial sum");
    Plan residual = plan;  // as the second input of a sum
    for (Op& op : residual.ops)
      if (!op.in.empty() && op.in[0] == sum) op.in = {op.in[0], sum};
    EXPECT_DEATH(check_partial_sums(residual), "all_reduce of .* reads a partial sum");
    Plan kept = plan;
    kept.taps = sum;
    EXPECT_DEATH(check_partial_sums(kept), "a result of the plan is a partial sum");
  }
}

}  // namespace
}  // namespace weft
