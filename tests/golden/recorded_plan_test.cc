// What `weft plan` counts without weights is what loading them gives.
#include "api/recorded_plan.h"

#include <gtest/gtest.h>

#include "plan/cost.h"
#include "runtime/model.h"
#include "support/reference_case.h"

namespace weft::testing {
namespace {

class RecordedPlans : public ::testing::TestWithParam<std::string> {};

void expect_formats(const Plan& got, const Plan& want) {
  ASSERT_EQ(got.matrices.size(), want.matrices.size());
  for (size_t i = 0; i < want.matrices.size(); ++i)
    EXPECT_EQ(got.matrices[i].format, want.matrices[i].format) << want.matrices[i].sources.front().tensor;
}

TEST_P(RecordedPlans, HaveTheFormatsAndBytesOfLoadedOnes) {
  const std::string folder = test_data("golden/" + GetParam());
  EngineOptions options;
  options.dtype = ComputeType::bfloat16;
  const RankTeam ranks(1);
  const Result<Model> model =
      load_model(folder, ranks, {.dtype = ComputeType::bfloat16, .pack_weights = PackWeights::off});
  ASSERT_TRUE(model.ok()) << model.error().to_string();
  const auto headers = record_plan(folder, options);
  ASSERT_TRUE(headers.ok()) << headers.error().to_string();
  expect_formats(headers->plan, model->whole);
  EXPECT_EQ(headers->cache, model->kv_dtype);

  const HeldBytes held = held_bytes(stage_of(headers->plan, {0, 1 << 20}), headers->form, headers->cache);
  EXPECT_EQ(held.cache_per_token, kv_bytes_per_token(model->whole.groups, model->kv_dtype));
  // Packed matrices end in whole panels; tables may lie in the mapped file, which weight_bytes() leaves out.
  int64_t matrices = 0, packed = 0;
  for (const Matrix& matrix : headers->plan.matrices) matrices += matrix.bytes(headers->form);
  for (const kernels::PackedMatrix& matrix : model->weights().matrices)
    packed += static_cast<int64_t>(matrix.panel_bytes) * ((matrix.out + matrix.panel - 1) / matrix.panel);
  EXPECT_LE(matrices, packed);
  EXPECT_GE(held.weight_bytes(), matrices);
}

INSTANTIATE_TEST_SUITE_P(, RecordedPlans, ::testing::ValuesIn(reference_case_names()), test_name);

// The configuration alone says as much as the headers.
TEST(RecordedPlan, Fp8IsAnnouncedByTheConfiguration) {
  for (const char* name : {"deepseek-v3-fp8", "deepseek-v3", "llama4"}) {
    const std::string folder = test_data(std::string("golden/") + name);
    const auto headers = record_plan(folder, {}), config = record_plan(folder + "/config.json", {});
    ASSERT_TRUE(headers.ok() && config.ok()) << name;
    expect_formats(config->plan, headers->plan);
  }
  const auto published = record_plan(test_data("configs/deepseek-v3"), {});
  ASSERT_TRUE(published.ok()) << published.error().to_string();
  // 671 billion weights: a byte each and a float for every 128, but for the table, the head, the routers, and the half
  // of kv_b_proj that is read by columns.
  const HeldBytes held = held_bytes(stage_of(published->plan, {0, 61}), published->form, published->cache);
  EXPECT_NEAR(static_cast<double>(held.weights.at("fp8")), 671e9 * (1 + 4.0 / 128), 10e9);
  // 512 + 64 numbers of 16 bits a layer.
  EXPECT_EQ(held.cache_per_token, 61 * 576 * 2);
}

}  // namespace
}  // namespace weft::testing
