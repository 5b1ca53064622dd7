// Quantised matrices of the reference cases (tests/data/golden) in memory: kept in the form that fits their format,
// with the values of the file to the bit, in the order of their groups.
#include <gtest/gtest.h>

#include "base/thread_team.h"
#include "checkpoint/quant/coded_matrix.h"
#include "kernels/ref.h"
#include "plan/plan_builder.h"
#include "plan/weight_formats.h"
#include "plan/weights.h"

namespace weft {
namespace {

using kernels::OffsetKind;
using kernels::ScaleKind;
using kernels::WeightForm;

std::shared_ptr<const Checkpoint> open_case(const std::string& name) {
  auto opened = Checkpoint::open(std::string(WEFT_TEST_DATA) + "/golden/" + name);
  EXPECT_TRUE(opened.ok()) << opened.error().to_string();
  return *opened;
}

// A product with `tensor`, and with it behind others, of the same input.
Plan plan_with(const Checkpoint& checkpoint, const std::vector<std::string>& tensors) {
  Matrix m{.sources = {}, .k = static_cast<int>(checkpoint.find(tensors[0])->cols())};
  for (const std::string& tensor : tensors) m.sources.push_back({tensor, 0, checkpoint.find(tensor)->rows()});
  PlanBuilder b("test");
  b.set_output(b.linear(b.embed(Scope("table"), 4, m.k, 1.0f), m), HeadKind::reward_steps);
  Plan plan = b.take();
  plan.tables.clear(), plan.table_cols.clear();  // the input's table is not in the folder
  plan.unused = {"model", "lm_head"};
  return plan;
}

// Each packed value is the file's, at the column that it was taken from.
void check_values(const Plan& plan, const Checkpoint& checkpoint, const Weights& weights) {
  for (size_t i = 0; i < plan.matrices.size(); ++i) {
    const Matrix& m = plan.matrices[i];
    int column = 0;
    std::vector<float> row(static_cast<size_t>(m.k));
    for (const TensorRows& source : m.sources)
      for (int64_t r = 0; r < source.rows; ++r, ++column) {
        const TensorInfo& tensor = *checkpoint.find(source.tensor);
        ASSERT_TRUE(read_rows(tensor, r, 1, row.data(), m.k).ok());
        const std::vector<int32_t>& order = tensor.coded->column_order;
        for (int k = 0; k < m.k; ++k)
          ASSERT_EQ(kernels::ref_weight(weights.matrices[i], column, k),
                    row[static_cast<size_t>(order.empty() ? k : order[static_cast<size_t>(k)])])
              << source.tensor << " row " << r << " k " << k;
      }
  }
}

void expect_kept(const std::string& name, const std::vector<std::string>& tensors, WeightForm form, ScaleKind scale,
                 OffsetKind offset, bool arranged) {
  const auto checkpoint = open_case(name);
  for (const kernels::CpuTable* table : kernels::available_tables()) {
    const Plan plan = choose_formats(plan_with(*checkpoint, tensors), *checkpoint, {.form = WeightForm::bf16});
    int arranges = 0;
    for (const Op& op : plan.ops) arranges += std::holds_alternative<ArrangeOp>(op.kind);
    EXPECT_EQ(arranges > 0, arranged) << name;
    for (const Matrix& m : plan.matrices) {
      EXPECT_EQ(m.format->form, form) << name;
      EXPECT_EQ(m.format->groups.scale, scale) << name;
      EXPECT_EQ(m.format->groups.offset, offset) << name;
    }
    ThreadTeam team(2);
    const auto weights = load_weights(plan, checkpoint, *table, team, {WeightForm::bf16, {}, Quantize::none, false});
    ASSERT_TRUE(weights.ok()) << weights.error().to_string();
    check_values(plan, *checkpoint, *weights);
  }
}

TEST(CodedFormats, AreKeptInTheirBits) {
  const std::string attention = "model.layers.0.self_attn.", mlp = "model.layers.0.mlp.";
  expect_kept("awq-deepseek-v3", {mlp + "gate_proj.weight", mlp + "up_proj.weight"}, WeightForm::int4, ScaleKind::f16,
              OffsetKind::zero, false);
  expect_kept("ct-mxfp4a16", {attention + "q_proj.weight", attention + "k_proj.weight"}, WeightForm::fp4,
              ScaleKind::f32, OffsetKind::none, false);
  expect_kept("ct-w4a16-actorder", {attention + "q_proj.weight"}, WeightForm::int4, ScaleKind::bf16, OffsetKind::none,
              true);
}

// Matrices with different orders of columns are products of their own, each with its own input.
TEST(CodedFormats, StacksWithSeveralOrdersAreCut) {
  const auto checkpoint = open_case("ct-w4a16-actorder");
  const std::string attention = "model.layers.0.self_attn.";
  const std::vector<std::string> tensors = {attention + "q_proj.weight", attention + "k_proj.weight"};
  const bool same =
      checkpoint->find(tensors[0])->coded->column_order == checkpoint->find(tensors[1])->coded->column_order;
  const Plan plan = choose_formats(plan_with(*checkpoint, tensors), *checkpoint, {.form = WeightForm::f32});
  EXPECT_EQ(plan.matrices.size(), same ? 1u : 2u);
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    if (!std::holds_alternative<LinearOp>(plan.ops[i].kind)) continue;
    ASSERT_GT(i, 0u);
    EXPECT_TRUE(std::holds_alternative<ArrangeOp>(plan.ops[i - 1].kind));
    EXPECT_EQ(plan.ops[i].in[0], *plan.ops[i - 1].out);
  }
}

// With --dequantize they are widened, and no input is arranged.
TEST(CodedFormats, DequantizeWidens) {
  const auto checkpoint = open_case("ct-w4a16-actorder");
  const Plan plan = choose_formats(plan_with(*checkpoint, {"model.layers.0.self_attn.q_proj.weight"}), *checkpoint,
                                   {.form = WeightForm::f32, .dequantize = true});
  EXPECT_EQ(plan.matrices[0].format->form, WeightForm::f32);
  for (const Op& op : plan.ops) EXPECT_FALSE(std::holds_alternative<ArrangeOp>(op.kind));
}

}  // namespace
}  // namespace weft
