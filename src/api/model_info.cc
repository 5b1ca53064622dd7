#include "api/model_info.h"

namespace weft {
namespace {

int64_t parameters_of(const kernels::PackedMatrix& packed) { return int64_t{packed.out} * packed.k; }

void add_experts(const ExpertsOp& experts, const Weights& weights, ModelInfo& info) {
  info.expert_share = static_cast<double>(experts.slots) / static_cast<double>(experts.matrices.size());
  for (const int matrix : experts.matrices) {
    const kernels::PackedMatrix& packed = weights.matrices[matrix];
    info.expert_parameters += parameters_of(packed);
    info.expert_bytes += static_cast<int64_t>(packed.panel_bytes) * ((packed.out + packed.panel - 1) / packed.panel);
    info.prompt_parameters += static_cast<double>(parameters_of(packed)) * info.expert_share;
  }
}

}  // namespace

ModelInfo describe(const Model& model) {
  ModelInfo info;
  info.architecture = model.architecture;
  info.vocab_size = model.vocab;
  info.parameters = model.weights.parameters, info.weight_bytes = model.weights.bytes;
  for (const Op& op : model.plan.ops) {
    if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) add_experts(*experts, model.weights, info);
    if (const auto* linear = std::get_if<LinearOp>(&op.kind); linear && op.out->rows == Rows::tokens)
      info.prompt_parameters += static_cast<double>(parameters_of(model.weights.matrices[linear->matrix]));
    if (const auto* heads = std::get_if<PerHeadOp>(&op.kind); heads && op.out->rows == Rows::tokens)
      for (const int matrix : heads->matrices)
        info.prompt_parameters += static_cast<double>(parameters_of(model.weights.matrices[matrix]));
  }
  info.kv_bytes_per_token = model.kv_bytes_per_token();
  info.dtype = model.form == kernels::WeightForm::f32 ? "float32" : "bfloat16", info.isa = model.table->isa;
  info.generative = model.plan.head == HeadKind::lm;
  return info;
}

}  // namespace weft
