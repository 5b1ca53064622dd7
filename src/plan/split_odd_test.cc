// Shapes and formats that ranks share with difficulty, what a rank holds of a model, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "plan/small_model.h"
#include "plan/split.h"
#include "plan/split_runs.h"

namespace weft {
namespace {

using kernels::WeightForm;
using Mlp = SmallModel::Mlp;

void expect_bits_of_one(const Plan& plan, const std::shared_ptr<const Checkpoint>& checkpoint,
                        std::initializer_list<int> rank_counts, RunOptions options) {
  for (const kernels::CpuTable* table : {&kernels::ref_table(), kernels::available_tables().back()}) {
    options.table = table;
    const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
    ASSERT_EQ(one.error, "");
    for (const int ranks : rank_counts) {
      SCOPED_TRACE(std::string(table->isa) + ", " + std::to_string(ranks) + " ranks");
      const RankedRun run = run_on_ranks(plan, checkpoint, {.tensor = ranks}, options);
      ASSERT_EQ(run.error, "");
      EXPECT_TRUE(run.outputs == one.outputs);
      EXPECT_TRUE(run.taps == one.taps);
    }
  }
}

int count_gathers(const Plan& plan) {
  return static_cast<int>(std::count_if(plan.ops.begin(), plan.ops.end(),
                                        [](const Op& op) { return std::holds_alternative<AllGatherOp>(op.kind); }));
}

Plan share_of(const SmallModel& model, int ranks, int rank = 0) {
  auto share = split_plan(record(model), {.tensor = ranks}, rank);
  EXPECT_TRUE(share.ok()) << share.error().to_string();
  return share.ok() ? *share : Plan{};
}

// A row of 64 weights has one scale; a share of 32 quantised by itself would have another.
TEST(SplitFormats, OneGroupOfScalesForARow) {
  const SmallModel model{.heads = 4, .kv_heads = 2, .width = 64};
  for (const Quantize quantize : {Quantize::int8, Quantize::int4})
    for (const WeightForm form : {WeightForm::f32, WeightForm::bf16})
      expect_bits_of_one(record(model), dummy_weights(), {2, 4}, {.formats = {.form = form, .quantize = quantize}});
}

TEST(SplitFormats, GroupsOfScalesAcrossTheShares) {
  for (const int width : {192, 320, 384, 512, 1024})
    expect_bits_of_one(record({.width = width, .biases = true}), dummy_weights(), {2, 4, 8},
                       {.formats = {.form = WeightForm::bf16, .quantize = Quantize::int8}});
}

TEST(SplitFormats, Fp8KeepsTheScalesOfTheWholeTensor) {
  for (const Mlp mlp : {Mlp::gated, Mlp::plain, Mlp::experts})
    for (const int64_t block : {0, 32, 64, 128}) {
      SCOPED_TRACE(block);
      const SmallModel model{
          .hidden = 128, .heads = 8, .kv_heads = 4, .dim = 32, .width = 256, .mlp = mlp, .biases = mlp != Mlp::experts};
      const Plan plan = record(model);
      const auto checkpoint = fp8_weights(plan, block);
      expect_bits_of_one(plan, checkpoint, {2, 4, 8}, {.formats = {.form = WeightForm::bf16}});
      if (block != 64 || mlp != Mlp::gated) continue;
      expect_bits_of_one(plan, checkpoint, {4}, {.formats = {.form = WeightForm::f32}});
      expect_bits_of_one(plan, checkpoint, {4}, {.formats = {.form = WeightForm::f32, .dequantize = true}});
      expect_bits_of_one(plan, checkpoint, {4}, {.formats = {.form = WeightForm::bf16, .dequantize = true}});
    }
}

TEST(SplitFormats, LatentFp8) {
  const Plan plan = record({.hidden = 128, .dim = 32, .width = 64, .mlp = Mlp::experts, .latent = true});
  expect_bits_of_one(plan, fp8_weights(plan, 32), {2, 8}, {.formats = {.form = WeightForm::bf16}});
}

// Three ranks own no subtrees of the eight sums, so all products are cut by their outputs.
TEST(SplitShapes, ThreeRanks) {
  const SmallModel model{
      .hidden = 48, .heads = 6, .kv_heads = 3, .width = 96, .vocab = 150, .tied = true, .taps = true};
  EXPECT_GE(count_gathers(share_of(model, 3)), 8);
  expect_bits_of_one(record(model), dummy_weights(), {3}, {});
  expect_bits_of_one(record(model), dummy_weights(), {3},
                     {.formats = {.form = WeightForm::bf16}, .cache = DType::bf16});
}

TEST(SplitShapes, AStreamThatRanksDoNotDivide) {
  const SmallModel model{.hidden = 70, .width = 64, .vocab = 90, .biases = true};
  expect_bits_of_one(record(model), dummy_weights(), {2, 4, 8}, {});
}

// A matrix of two tensors whose outputs are cut: one rank has rows of the first tensor alone.
TEST(SplitShapes, StackedOutputsAreCut) {
  PlanBuilder b("test");
  const Scope root;
  const Value x = b.embed(root / "embed", 40, 60, 1.0f);
  const Value wide =
      b.activate(b.linear(x, {.sources = {whole(root / "up", 60)}, .k = 60}), kernels::Activation::silu, false);
  // 60 columns are cut into two sums, too few for four ranks.
  const Value y = b.linear(wide, {.sources = {whole(root / "a", 30), whole(root / "b", 30)},
                                  .biases = {{"a.bias", 0, 30}, {"", 0, 30}},
                                  .k = 60,
                                  .shard = Shard::rows});
  b.set_output(b.linear(b.select(b.add(x, y)), {.sources = {whole(root / "head", 40)}, .k = 60}), HeadKind::lm);
  const Plan plan = b.take();
  const auto share = split_plan(plan, {.tensor = 4}, 3);
  ASSERT_TRUE(share.ok());
  EXPECT_EQ(std::ranges::count(share->unused, "a.weight") + std::ranges::count(share->unused, "a.bias"), 2);
  expect_bits_of_one(plan, dummy_weights(), {2, 4}, {});
  expect_bits_of_one(plan, fp8_weights(plan, 0), {2, 4}, {});
}

TEST(SplitShapes, OneTokenAtATime) {
  RunOptions options;
  options.steps.clear();
  for (int i = 0; i < 6; ++i) options.steps.push_back({{i % 2, 1}});
  options.home_of = {1, 1, 1};
  const SmallModel model{.kv_heads = 4, .width = 32, .mlp = Mlp::experts, .shared_expert = true};
  expect_bits_of_one(record(model), dummy_weights(), {2, 4, 8}, options);
}

// ---- What a rank holds.

int64_t matrix_values(const Plan& plan) {
  int64_t values = 0;
  for (const Matrix& m : plan.matrices) values += m.out() * m.k;
  return values;
}

std::set<std::string> tensors_of(const Plan& plan) {
  std::set<std::string> names;
  for (const Matrix& m : plan.matrices) {
    for (const TensorRows& rows : m.sources) names.insert(rows.tensor);
    for (const TensorRows& rows : m.biases) names.insert(rows.tensor);
  }
  return names;
}

TEST(SplitHolds, AnEqualPartOfEveryMatrix) {
  const SmallModel dense{.kv_heads = 8, .vocab = 256, .fused = true, .biases = true, .tied = true};
  const SmallModel experts{.mlp = Mlp::experts_of_one_tensor, .shared_expert = true};
  for (const int ranks : {2, 4, 8})
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(matrix_values(share_of(dense, ranks, rank)) * ranks, matrix_values(record(dense)));
      // All but the routers, and 200 tokens in shares of whole panels.
      const int64_t routers = 2 * 8 * 64, head = 64 * 200;
      EXPECT_EQ((matrix_values(
                     share_of({.vocab = 256, .mlp = Mlp::experts_of_one_tensor, .shared_expert = true}, ranks, rank)) -
                 routers) *
                    ranks,
                matrix_values(record(experts)) - routers - head + 64 * 256);
    }
}

TEST(SplitHolds, HeadsOfTheCache) {
  const auto kv_heads = [](int kv, int ranks, int rank) {
    const Plan share = share_of({.kv_heads = kv}, ranks, rank);
    EXPECT_EQ(share.groups.size(), 1u);
    EXPECT_EQ(share.groups[0].heads, 8 / ranks);
    EXPECT_EQ(share.groups[0].layers, 2);
    return std::pair(share.groups[0].first_kv_head, share.groups[0].spec.kv_heads);
  };
  EXPECT_EQ(kv_heads(8, 4, 3), std::pair(6, 2));
  EXPECT_EQ(kv_heads(4, 4, 2), std::pair(2, 1));
  EXPECT_EQ(kv_heads(2, 4, 1), std::pair(0, 1));  // ranks 0 and 1 keep the same head
  EXPECT_EQ(kv_heads(2, 8, 7), std::pair(1, 1));
  EXPECT_EQ(kv_heads(1, 2, 1), std::pair(0, 1));
}

// Attention data parallelism: everything but the experts is whole.
TEST(SplitHolds, HomesShareTheExpertsAlone) {
  const Plan whole = record({.kv_heads = 4, .mlp = Mlp::experts});
  const auto share = split_plan(whole, {.tensor = 4, .attention_dp = true}, 1);
  ASSERT_TRUE(share.ok());
  const int64_t expert = 3 * 64 * 128, all = 2 * 8 * expert;
  EXPECT_EQ(matrix_values(*share), matrix_values(whole) - all + all / 4);
  EXPECT_EQ(share->groups[0].spec.kv_heads, 4);
}

// A tensor that the whole plan reads and a share does not is one that may lie in the checkpoint unread.
TEST(SplitHolds, NamesWhatItLeavesToOthers) {
  const SmallModel models[] = {{.biases = true, .latent = true}, {.mlp = Mlp::experts, .shared_expert = true}, {}};
  for (const SmallModel& model : models)
    for (const int ranks : {2, 8})
      for (int rank = 0; rank < ranks; ++rank) {
        const Plan share = share_of(model, ranks, rank);
        const std::set<std::string> read = tensors_of(share);
        for (const std::string& name : tensors_of(record(model)))
          EXPECT_TRUE(read.contains(name) || std::ranges::count(share.unused, name) > 0)
              << name << " of rank " << rank << " of " << ranks;
      }
  const Plan share = share_of({.mlp = Mlp::experts}, 2, 1);
  for (const std::string& name : tensors_of(share)) EXPECT_EQ(name.find("expert0"), std::string::npos) << name;
}

// ---- What is refused.

std::string refusal(const SmallModel& model, int ranks) {
  const auto share = split_plan(record(model), {.tensor = ranks}, 0);
  EXPECT_FALSE(share.ok());
  if (share.ok()) return "";
  EXPECT_EQ(share.error().code(), Code::invalid_argument);
  return share.error().to_string();
}

void expect_words(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words) EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
}

TEST(SplitRefuses, WithTheNumbers) {
  expect_words(refusal({.heads = 6, .kv_heads = 6}, 4), {"6 attention heads", "layer1.o", "4 ranks"});
  expect_words(refusal({.heads = 12, .kv_heads = 3}, 2), {"12 query heads", "3 heads of keys", "2 ranks"});
  expect_words(refusal({.width = 100}, 8), {"100 columns", "layer1.down", "8 ranks"});
  expect_words(refusal({.mlp = Mlp::experts, .experts = 16}, 16), {"8 attention heads", "16 ranks"});
  expect_words(refusal({.heads = 4, .latent = true}, 8), {"4 attention heads", "8 ranks"});
}

}  // namespace
}  // namespace weft
