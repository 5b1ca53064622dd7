// Plans with adapters: rows without one have the bits of the plan without, rows with one those that they have alone, on
// any number of ranks; and the numbers are those of weights that the factors were added to.
#include "plan/adapters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "plan/small_model.h"
#include "plan/split_runs.h"

namespace weft {
namespace {

using kernels::WeightForm;
using Mlp = SmallModel::Mlp;

const SmallModel kModels[] = {
    {.name = "heads_of_their_own"},
    {.name = "grouped_heads", .kv_heads = 4, .fused = true, .biases = true},
    {.name = "two_heads_of_keys", .kv_heads = 2, .tied = true, .soft_cap = 5},
    {.name = "plain_mlp", .mlp = Mlp::plain, .biases = true, .taps = true},
    {.name = "odd_widths", .hidden = 72, .dim = 10, .width = 136, .vocab = 77, .fused = true},
    {.name = "latent", .biases = true, .latent = true},
    {.name = "experts", .kv_heads = 4, .width = 48, .mlp = Mlp::experts, .shared_expert = true},
    {.name = "experts_of_one_tensor", .width = 32, .mlp = Mlp::experts_of_one_tensor, .chosen = 1},
    {.name = "experts_of_scaled_rows", .width = 32, .mlp = Mlp::experts_of_scaled_rows, .shared_expert = true},
    {.name = "six_experts", .hidden = 80, .kv_heads = 2, .width = 56, .mlp = Mlp::experts, .experts = 6},
    {.name = "layers_for_images", .kv_heads = 2, .biases = true, .cross = true},
};

const Format kFormats[] = {
    {"float32", {.form = WeightForm::f32}},
    {"bfloat16", {.form = WeightForm::bf16}, DType::bf16},
    {"bfloat16_in_12_bits", {.form = WeightForm::bf16}, DType::bf16, true},
    {"int8", {.form = WeightForm::bf16, .quantize = Quantize::int8}, DType::bf16},
    {"int4_over_float_rows", {.form = WeightForm::f32, .quantize = Quantize::int4}},
};

class Adapters : public ::testing::TestWithParam<std::tuple<SmallModel, Format>> {
 protected:
  Plan plan = record(std::get<0>(GetParam()));
  std::shared_ptr<const Checkpoint> checkpoint = dummy_weights();

  RunOptions options() const {
    const Format& format = std::get<1>(GetParam());
    RunOptions options{.table = kernels::available_tables().back(),
                       .formats = format.options,
                       .pack = format.pack,
                       .cache = format.cache,
                       .images = {0, 40, 0}};
    options.adapters = {random_adapter(plan, 4, 1), random_adapter(plan, 7, 2), random_adapter(plan, 1, 3, "layer1")};
    return options;
  }
  RankedRun run(const RunOptions& options, const RankLayout& layout = {}) const {
    RankedRun result = run_on_ranks(plan, checkpoint, layout, options);
    EXPECT_EQ(result.error, "");
    return result;
  }
};

TEST_P(Adapters, NoRowDependsOnTheOthers) {
  for (const kernels::CpuTable* table : {&kernels::ref_table(), kernels::available_tables().back()}) {
    SCOPED_TRACE(table->isa);
    RunOptions mixed = options();
    mixed.table = table, mixed.adapter_of = {-1, 0, 1};
    RunOptions none = mixed;
    none.adapters.clear();
    const RankedRun plain = run(none), all = run(mixed);
    EXPECT_TRUE(all.outputs[0] == plain.outputs[0]);  // in steps with adapters and without
    EXPECT_TRUE(all.taps[0] == plain.taps[0]);
    EXPECT_TRUE(all.outputs[1] != plain.outputs[1]);
    EXPECT_TRUE(all.outputs[2] != plain.outputs[2]);
    for (const size_t alone : {1, 2}) {
      RunOptions one = mixed;
      one.adapter_of = {-1, -1, -1};
      one.adapter_of[alone] = mixed.adapter_of[alone];
      one.threads_per_rank = 3, one.replay = false;
      EXPECT_TRUE(run(one).outputs[alone] == all.outputs[alone]) << alone;
    }
  }
}

TEST_P(Adapters, SequencesOfOneAdapterAreApart) {
  RunOptions same = options(), other = options();
  same.adapter_of = {1, 1, 1}, other.adapter_of = {0, 1, 2};
  EXPECT_TRUE(run(same).outputs[1] == run(other).outputs[1]);
}

TEST_P(Adapters, RanksGiveTheBitsOfOne) {
  RunOptions mixed = options();
  mixed.adapter_of = {2, 0, 1};
  const RankedRun one = run(mixed);
  for (const int ranks : {2, 4, 8}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks");
    mixed.threads_per_rank = ranks == 2 ? 2 : 1, mixed.replay = ranks != 4;
    mixed.piece_rows = ranks == 8 ? 0 : 7 - ranks;
    const RankedRun split = run_on_ranks(plan, checkpoint, {.tensor = ranks}, mixed);
    if (std::get<0>(GetParam()).name == "six_experts" && !split.error.empty()) continue;  // widths that do not divide
    ASSERT_EQ(split.error, "");
    EXPECT_TRUE(split.outputs == one.outputs);
    EXPECT_TRUE(split.taps == one.taps);
  }
}

TEST_P(Adapters, HomesGiveTheBitsOfOne) {
  RunOptions mixed = options();
  mixed.adapter_of = {2, 0, -1};
  const RankedRun one = run(mixed);
  for (const std::vector<int>& homes : std::vector<std::vector<int>>{{0, 1, 0}, {1, 1, 1}, {0, 0, 0}}) {
    mixed.home_of = homes, mixed.threads_per_rank = 3 - homes[1];
    EXPECT_TRUE(run(mixed, {.tensor = 2, .attention_dp = true}).outputs == one.outputs);
  }
}

INSTANTIATE_TEST_SUITE_P(, Adapters, ::testing::Combine(::testing::ValuesIn(kModels), ::testing::ValuesIn(kFormats)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
                         });

std::vector<float> floats(const std::vector<uint32_t>& bits) {
  std::vector<float> values(bits.size());
  std::memcpy(values.data(), bits.data(), bits.size() * sizeof(float));
  return values;
}

// In float32 what is added up in another order differs in the last places only.
TEST(AdapterNumbers, AreThoseOfMergedWeights) {
  for (const SmallModel& model : kModels) {
    SCOPED_TRACE(model.name);
    const Plan plan = record(model);
    RunOptions options{.images = {0, 40, 0}};
    const auto adapter = random_adapter(plan, 6, 5);
    const RankedRun merged = run_on_ranks(plan, merged_weights(plan, adapter.get()), {}, options);
    options.adapters = {adapter}, options.adapter_of = {0, 0, 0};
    const RankedRun added = run_on_ranks(plan, merged_weights(plan, nullptr), {}, options);
    ASSERT_EQ(merged.error + added.error, "");
    for (size_t s = 0; s < merged.outputs.size(); ++s) {
      const std::vector<float> want = floats(merged.outputs[s]), got = floats(added.outputs[s]);
      double square = 0;
      for (const float value : want) square += double{value} * value;
      const double deviation = std::sqrt(square / static_cast<double>(want.size()));
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-3 * deviation) << s << " " << i;
    }
  }
}

TEST(AdapterCheck, NamesTheTensorAndTheFile) {
  const Plan plan = record({.name = "latent", .latent = true});
  const auto modules = adapter_modules(plan);
  Adapter adapter = *random_adapter(plan, 4, 1);
  adapter.file = "law/adapter_model.safetensors";
  EXPECT_TRUE(check_adapter(modules, adapter, 4).ok());
  const auto error = [&](auto change) {
    Adapter changed = adapter;
    change(changed);
    const Status status = check_adapter(modules, changed, 4);
    return status.ok() ? "ok" : status.error().message();
  };
  const std::string o = "layer0.o";
  EXPECT_EQ(error([&](Adapter& a) { a.pairs[o].rank = 5; }),
            "tensor layer0.o has rank 5, --max-lora-rank is 4 (law/adapter_model.safetensors)");
  EXPECT_EQ(error([&](Adapter& a) { a.pairs[o].in = 7; }),
            "tensor layer0.o has 7 columns, layer0.o has 128 inputs (law/adapter_model.safetensors)");
  EXPECT_EQ(error([&](Adapter& a) { a.pairs[o].out = 9; }),
            "tensor layer0.o has 9 rows, layer0.o has 64 outputs (law/adapter_model.safetensors)");
  EXPECT_NE(error([&](Adapter& a) { a.pairs["head"] = a.pairs[o]; }).find("is for head"), std::string::npos);
  EXPECT_FALSE(modules.contains("head"));
  EXPECT_FALSE(modules.contains("layer0.kv_b"));
}

}  // namespace
}  // namespace weft
