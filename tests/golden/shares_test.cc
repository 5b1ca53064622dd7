// Every golden model, and every draft that there is data for, shared by ranks: the plans of all shares keep the rule of
// shared regions, each rank holds its part, and together they compute the bits of one rank.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "plan/region_check.h"
#include "plan/split_runs.h"
#include "runtime/draft_model.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

const RankLayout kLayouts[] = {{.tensor = 2, .experts = 2},
                               {.tensor = 4, .experts = 4},
                               {.tensor = 2, .experts = 2, .attention_dp = true},
                               {.tensor = 4, .experts = 4, .attention_dp = true}};

std::string name_of(const RankLayout& layout) {
  return (layout.attention_dp ? "adp" : "tp") + std::to_string(layout.tensor);
}

std::set<std::string> tensors_of(const Plan& plan) {
  std::set<std::string> names;
  for (const Matrix& m : plan.matrices)
    for (const TensorRows& rows : m.sources)
      if (!rows.tensor.empty()) names.insert(rows.tensor);
  return names;
}

void check_shares(const Plan& whole, const PlanShares& shares) {
  for (const PlanShare& share : shares.ranks) {
    EXPECT_EQ(RegionCheck(share.plan, {.tokens = 48, .outputs = 7, .mixed = 9}).check_all(), "");
    const std::set<std::string> read = tensors_of(share.plan);
    for (const std::string& name : tensors_of(whole))
      EXPECT_TRUE(read.contains(name) || std::ranges::count(share.plan.unused, name) > 0) << name;
  }
}

int64_t values(const Plan& plan) {
  int64_t sum = 0;
  for (const Matrix& m : plan.matrices) sum += m.out() * m.k;
  return sum;
}

class Ranks : public ::testing::TestWithParam<std::tuple<std::string, RankLayout>> {};

TEST_P(Ranks, ShareAModel) {
  const auto& [name, layout] = GetParam();
  const RankTeam ranks(layout.size(), layout);
  for (const Quantize quantize : {Quantize::none, Quantize::int8}) {
    const auto model =
        load_model(test_data("golden/" + name), ranks, {.dtype = ComputeType::bfloat16, .quantize = quantize});
    if (!model.ok()) {
      EXPECT_EQ(model.error().code(), Code::invalid_argument) << model.error().to_string();
      GTEST_SKIP() << model.error().to_string();
    }
    check_shares(model->whole, model->shares);
    const bool shared =
        std::ranges::any_of(model->whole.matrices, [](const Matrix& m) { return m.shard == Shard::rows; });
    if (!layout.attention_dp && shared) {
      // Every matrix once, but for what all ranks keep (routers, latent rows, small vocabularies, odd layers).
      EXPECT_LT(values(model->plan()), values(model->whole) * 0.75);
    }
  }
}

TEST_P(Ranks, GiveTheBitsOfOne) {
  const auto& [name, layout] = GetParam();
  const auto checkpoint = Checkpoint::open(test_data("golden/" + name));
  ASSERT_TRUE(checkpoint.ok());
  const auto plan = plan_of(**checkpoint);
  ASSERT_TRUE(plan.ok());
  RunOptions options{.table = kernels::available_tables().back(),
                     .formats = {.form = kernels::WeightForm::bf16},
                     .cache = DType::bf16,
                     .home_of = {1, 0, 1}};
  const RankedRun one = run_on_ranks(*plan, *checkpoint, {}, options),
                  all = run_on_ranks(*plan, *checkpoint, layout, options);
  ASSERT_EQ(one.error, "");
  if (!all.error.empty()) GTEST_SKIP() << all.error;
  EXPECT_TRUE(one.outputs == all.outputs);
}

INSTANTIATE_TEST_SUITE_P(, Ranks,
                         ::testing::Combine(::testing::ValuesIn(reference_case_names()), ::testing::ValuesIn(kLayouts)),
                         [](const auto& info) {
                           return as_test_name(std::get<0>(info.param) + "_" + name_of(std::get<1>(info.param)));
                         });

// Blocks of GGUF files: 32 values for a scale, and 256.
class GgufRanks : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufRanks, GiveTheBitsOfOne) {
  const auto checkpoint = Checkpoint::open(test_data("checkpoint/" + GetParam() + ".gguf"));
  ASSERT_TRUE(checkpoint.ok());
  const auto plan = plan_of(**checkpoint);
  ASSERT_TRUE(plan.ok()) << plan.error().to_string();
  for (const kernels::WeightForm form : {kernels::WeightForm::f32, kernels::WeightForm::bf16}) {
    RunOptions options{.formats = {.form = form}};
    const RankedRun one = run_on_ranks(*plan, *checkpoint, {}, options);
    ASSERT_EQ(one.error, "");
    for (const int ranks : {2, 4}) {
      const RankedRun all = run_on_ranks(*plan, *checkpoint, {.tensor = ranks, .experts = ranks}, options);
      if (!all.error.empty()) GTEST_SKIP() << all.error;
      EXPECT_TRUE(one.outputs == all.outputs) << ranks << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, GgufRanks, ::testing::Values("llama", "qwen2", "qwen3", "gemma3"), test_name);

struct Draft {
  const char* target;
  SpeculationOptions options;
};

TEST(DraftRanks, KeepTheRuleOfSharedRegions) {
  const Draft drafts[] = {
      {"llama-3.1", {.method = DraftMethod::eagle3, .model = test_data("drafts/eagle3-llama-3.1"), .num_tokens = 3}},
      {"qwen3-moe",
       {.method = DraftMethod::eagle3, .model = test_data("drafts/eagle3-qwen3-moe-speculators"), .num_tokens = 3}},
      {"deepseek-v3", {.method = DraftMethod::mtp, .num_tokens = 3}},
      {"../drafts/mtp2-deepseek-v3-fp8", {.method = DraftMethod::mtp, .num_tokens = 3}}};
  for (const Draft& draft : drafts)
    for (const RankLayout& layout : kLayouts) {
      SCOPED_TRACE(draft.target + (" " + name_of(layout)));
      const RankTeam ranks(layout.size(), layout);
      ModelOptions options{.dtype = ComputeType::bfloat16};
      const std::string path = test_data(std::string("golden/") + draft.target);
      const auto info = inspect_draft(draft.options, path, options);
      ASSERT_TRUE(info.ok()) << info.error().to_string();
      options.taps = info->taps;
      const auto model = load_model(path, ranks, options);
      if (!model.ok()) {
        EXPECT_EQ(model.error().code(), Code::invalid_argument) << model.error().to_string();
        continue;
      }
      check_shares(model->whole, model->shares);
      const auto loaded = load_draft(draft.options, *model, options, ranks);
      ASSERT_TRUE(loaded.ok()) << loaded.error().to_string();
      for (const DraftStage& stage : loaded->stages) check_shares(stage.whole, stage.shares);
    }
}

}  // namespace
}  // namespace weft::testing
