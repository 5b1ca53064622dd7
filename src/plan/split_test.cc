// The shares of ranks: what they compute together has the bits of the plan on one rank, and each holds its part.
#include "plan/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "plan/small_model.h"
#include "plan/split_runs.h"

namespace weft {
namespace {

using kernels::WeightForm;
using Mlp = SmallModel::Mlp;

const SmallModel kModels[] = {
    {.name = "heads of their own"},
    {.name = "grouped heads", .kv_heads = 4, .fused = true, .biases = true},
    {.name = "fewer heads of keys than ranks", .kv_heads = 1, .head_norms = true},
    {.name = "two heads of keys", .kv_heads = 2, .tied = true, .soft_cap = 5},
    {.name = "norms over all heads", .kv_heads = 4, .row_norms = true, .taps = true},
    {.name = "plain MLP", .mlp = Mlp::plain, .biases = true, .tied = true, .taps = true},
    {.name = "odd widths", .hidden = 72, .dim = 10, .width = 136, .vocab = 77, .fused = true},
    {.name = "few tokens", .vocab = 20, .tied = true},
    {.name = "a last share of the tokens", .vocab = 17 * 8 - 3, .tied = true},
    {.name = "latent", .biases = true, .latent = true},
    {.name = "experts", .kv_heads = 4, .width = 48, .mlp = Mlp::experts, .shared_expert = true},
    {.name = "latent experts", .width = 40, .mlp = Mlp::experts, .experts = 16, .chosen = 5, .latent = true},
    {.name = "experts of one tensor", .width = 32, .mlp = Mlp::experts_of_one_tensor, .chosen = 1},
    {.name = "experts of scaled rows", .width = 32, .mlp = Mlp::experts_of_scaled_rows, .shared_expert = true},
    {.name = "a layer without attention", .kv_heads = 2, .skips = true, .taps = true},
    {.name = "layers for images", .kv_heads = 2, .biases = true, .cross = true},
    {.name = "scores", .biases = true, .head = HeadKind::reward_steps},
};

const Format kFormats[] = {
    {"float32", {.form = WeightForm::f32}},
    {"bfloat16", {.form = WeightForm::bf16}, DType::bf16},
    {"bfloat16 in 12 bits", {.form = WeightForm::bf16}, DType::bf16, true},
    {"int8", {.form = WeightForm::bf16, .quantize = Quantize::int8}, DType::bf16},
    {"int4", {.form = WeightForm::bf16, .quantize = Quantize::int4}, DType::i8},
    {"int8 over float rows", {.form = WeightForm::f32, .quantize = Quantize::int8}},
};

std::vector<const kernels::CpuTable*> some_tables() {
  std::vector<const kernels::CpuTable*> tables{&kernels::ref_table()};
  const auto all = kernels::available_tables();
  if (all.size() > 1) tables.push_back(all.back());
  return tables;
}

// Of a layout's ranks; `same`: what one rank gives.
void expect_same(const RankedRun& same, const RankedRun& ranks) {
  ASSERT_EQ(ranks.error, "");
  EXPECT_EQ(ranks.outputs, same.outputs);
  EXPECT_EQ(ranks.taps, same.taps);
}

// Numbers that differ from row to row, so that a mistake would show.
void expect_numbers(const RankedRun& run) {
  ASSERT_EQ(run.error, "");
  for (const std::vector<uint32_t>& bits : run.outputs) {
    EXPECT_TRUE(std::none_of(bits.begin(), bits.end(), [](uint32_t b) { return (b & 0x7f800000) == 0x7f800000; }));
    EXPECT_GT(std::set<uint32_t>(bits.begin(), bits.end()).size(), bits.size() / 2);
  }
}

class Split : public ::testing::TestWithParam<std::tuple<SmallModel, Format>> {};

TEST_P(Split, RanksGiveTheBitsOfOne) {
  const auto& [model, format] = GetParam();
  const Plan plan = record(model);
  const auto checkpoint = dummy_weights();
  for (const kernels::CpuTable* table : some_tables()) {
    SCOPED_TRACE(table->isa);
    RunOptions options{.table = table, .formats = format.options, .pack = format.pack, .cache = format.cache};
    options.images = {0, 40, 0};  // in some of the steps
    const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
    expect_numbers(one);
    for (const int ranks : {2, 4, 8}) {
      SCOPED_TRACE(std::to_string(ranks) + " ranks");
      options.threads_per_rank = ranks == 2 ? 2 : 1, options.replay = ranks != 4;
      options.piece_rows = ranks == 8 ? 0 : 7 - ranks;  // products in front of sums in pieces of rows
      expect_same(one, run_on_ranks(plan, checkpoint, {.tensor = ranks}, options));
    }
  }
}

// Every rank has rows of its own, or none, and shares the experts.
TEST_P(Split, HomesGiveTheBitsOfOne) {
  const auto& [model, format] = GetParam();
  const Plan plan = record(model);
  const auto checkpoint = dummy_weights();
  RunOptions options{.table = kernels::available_tables().back(),
                     .formats = format.options,
                     .pack = format.pack,
                     .cache = format.cache,
                     .images = {0, 40, 0}};
  const RankedRun one = run_on_ranks(plan, checkpoint, {}, options);
  expect_numbers(one);
  for (const std::vector<int>& homes : std::vector<std::vector<int>>{{0, 1, 0}, {1, 1, 1}, {0, 0, 0}, {3, 0, 2}}) {
    const int ranks = homes[0] == 3 ? 4 : 2;
    options.home_of = homes, options.threads_per_rank = 3 - homes[1];
    expect_same(one, run_on_ranks(plan, checkpoint, {.tensor = ranks, .attention_dp = true}, options));
  }
}

std::string model_and_format(const ::testing::TestParamInfo<Split::ParamType>& info) {
  std::string name = std::get<0>(info.param).name + " " + std::get<1>(info.param).name;
  std::replace_if(name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(, Split, ::testing::Combine(::testing::ValuesIn(kModels), ::testing::ValuesIn(kFormats)),
                         model_and_format);

}  // namespace
}  // namespace weft
