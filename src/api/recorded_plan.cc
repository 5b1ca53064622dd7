#include "api/recorded_plan.h"

#include <algorithm>
#include <map>

#include "base/files.h"
#include "base/folder.h"
#include "models/models.h"
#include "plan/cpu_executor.h"
#include "plan/weight_formats.h"
#include "runtime/model.h"

namespace weft {

namespace {

using kernels::WeightForm;

bool has_weights(const std::string& path) {
  if (path.ends_with(".gguf")) return true;
  const std::vector<std::string> names = names_in(path);
  const auto has_some = [](const std::string& n) { return n.ends_with(".safetensors") || n.ends_with(".gguf"); };
  return std::ranges::any_of(names, has_some) || is_directory(path + "/llm");  // VILA's parts
}

// What checkpoints in fp8 hold in fp8: all products but routers and the head.
std::vector<MatrixShape> quantised_matrices(const Plan& plan) {
  std::map<std::string, MatrixShape> shapes;
  for (const Op& op : plan.ops) {
    const bool head = std::holds_alternative<LinearOp>(op.kind) && op.out->storage == plan.output.storage;
    if (head || std::holds_alternative<EmbedOp>(op.kind)) continue;
    for (const int index : matrices_of(op)) {
      const Matrix& matrix = plan.matrices[index];
      if (matrix.keep_float32) continue;
      for (const TensorRows& source : matrix.sources) {
        MatrixShape& shape = shapes[source.tensor];
        shape.name = source.tensor;
        const int64_t rows = source.first_row + (source.transposed ? matrix.k : source.rows);
        const int64_t cols = source.transposed ? source.first_col + source.rows : matrix.k;
        shape.rows = std::max(shape.rows, source.shape.size() == 2 ? source.shape[0] : rows);
        shape.cols = std::max(shape.cols, source.shape.size() == 2 ? source.shape[1] : cols);
      }
    }
  }
  std::vector<MatrixShape> list;
  for (auto& [name, shape] : shapes) list.push_back(std::move(shape));
  return list;
}

void pack(Plan& plan, WeightForm form) {
  for (Matrix& matrix : plan.matrices)
    if (format_of(matrix, form).form == WeightForm::bf16) matrix.format = kernels::WeightFormat{WeightForm::bf12};
}

}  // namespace

Plan RecordedPlan::prepared(Plan share) const { return prepare_plan(std::move(share), *kernels::cpu_table(), form); }

Result<RecordedPlan> record_plan(const std::string& path, const EngineOptions& options) {
  if (!kernels::cpu_table())
    return fail(Code::invalid_argument, "WEFT_ISA names an instruction set that this machine or build does not have");
  const bool real = options.load_format != LoadFormat::dummy && has_weights(path);
  WEFT_TRY(std::shared_ptr<const Checkpoint> checkpoint, real ? Checkpoint::open(path, LoadMode::mmap, options.mmproj)
                                                              : Checkpoint::open_dummy(path, options.mmproj));
  const HfConfig config = HfConfig::of(*checkpoint, options.max_seq_len);
  RecordedPlan recorded;
  WEFT_TRY(Plan plan, models::build_plan(config));
  recorded.form = choose_form(options.dtype, *checkpoint, config);
  WEFT_RETURN_IF_ERROR(config.status());
  WEFT_TRY(recorded.cache, choose_kv_dtype(options.kv_cache_dtype, recorded.form));
  std::shared_ptr<const Checkpoint> stored = checkpoint;
  if (!real && options.load_format != LoadFormat::dummy) {
    WEFT_TRY(stored, Checkpoint::open_described(path, quantised_matrices(plan)));
  }
  recorded.plan = choose_formats(std::move(plan), *stored,
                                 {recorded.form, options.quantize, options.dequantize,
                                  options.activation_quantization == ActivationQuantization::checkpoint});
  if (options.pack_weights == PackWeights::on && options.quantize == Quantize::none) pack(recorded.plan, recorded.form);
  return recorded;
}

}  // namespace weft
