// A model's plan without its weights, as `weft plan` prints and counts it.
#pragma once

#include <string>

#include "api/options.h"
#include "plan/plan.h"

namespace weft {

struct RecordedPlan {
  Plan plan;  // what all ranks together compute: formats are chosen, no pass has been through it
  kernels::WeightForm form = kernels::WeightForm::f32;  // of matrices without a format of their own
  DType cache = DType::f32;
  Plan prepared(Plan share) const;  // a share of it after the passes, for this machine's kernels
};

// The plan of the model at `path`, with the formats that the options choose (dtype, quantize, dequantize,
// kv_cache_dtype, load_format). No weights are read: where there are files their headers say how matrices are stored,
// else config.json (a folder with nothing else, or the file itself). `pack_weights` on counts bfloat16 matrices with 12
// bits a weight; auto, which is the loading machine's choice, with 16.
Result<RecordedPlan> record_plan(const std::string& path, const EngineOptions& options);

}  // namespace weft
