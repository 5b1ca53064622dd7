#include "api/model_info.h"

#include <set>

namespace weft {
namespace {

int64_t parameters_of(const Matrix& matrix) { return matrix.out() * matrix.k; }

void add_experts(const ExpertsOp& experts, const Model& model, ModelInfo& info) {
  info.expert_share = static_cast<double>(experts.slots) / static_cast<double>(experts.matrices.size());
  for (const int index : experts.matrices) {
    const Matrix& matrix = model.whole.matrices[index];
    info.expert_parameters += parameters_of(matrix);
    info.expert_bytes += matrix.bytes(model.form);
    info.prompt_parameters += static_cast<double>(parameters_of(matrix)) * info.expert_share;
  }
}

// Numbers of the checkpoint that the plan reads; an embedding that is tied to the output counts once.
int64_t parameters_of(const Plan& plan) {
  int64_t sum = 0;
  std::set<std::string> matrices;
  for (const Matrix& matrix : plan.matrices) {
    sum += parameters_of(matrix);
    for (const TensorRows& bias : matrix.biases) sum += bias.rows;
    if (matrix.sources.size() == 1) matrices.insert(matrix.sources[0].tensor);
  }
  for (const VectorWeight& vector : plan.vectors)
    if (!vector.tensor.empty()) sum += vector.size;
  for (size_t t = 0; t < plan.tables.size(); ++t)
    if (!matrices.contains(plan.tables[t].tensor)) sum += plan.tables[t].rows * plan.table_cols[t];
  return sum;
}

}  // namespace

ModelInfo describe(const Model& model) {
  ModelInfo info;
  info.architecture = model.architecture;
  info.vocab_size = model.vocab;
  info.parameters = parameters_of(model.whole), info.weight_bytes = model.weight_bytes();
  for (const Op& op : model.whole.ops) {
    if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) add_experts(*experts, model, info);
    if (const auto* linear = std::get_if<LinearOp>(&op.kind); linear && op.out->rows == Rows::tokens)
      info.prompt_parameters += static_cast<double>(parameters_of(model.whole.matrices[linear->matrix]));
    if (const auto* heads = std::get_if<PerHeadOp>(&op.kind); heads && op.out->rows == Rows::tokens)
      for (const int matrix : heads->matrices)
        info.prompt_parameters += static_cast<double>(parameters_of(model.whole.matrices[matrix]));
  }
  info.kv_bytes_per_token = model.kv_bytes_per_token();
  info.dtype = model.form == kernels::WeightForm::f32 ? "float32" : "bfloat16", info.isa = model.table->isa;
  info.generative = model.plan().head == HeadKind::lm;
  return info;
}

}  // namespace weft
