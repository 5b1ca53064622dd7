// What a checkpoint folder says about quantised weights. Read are methods that hold fp8 with scales: "fp8" (DeepSeek,
// Qwen), ModelOpt's FP8, and compressed-tensors with floats of 8 bits. Activations are never rounded to fp8, whatever
// the file says of them.
#pragma once

#include "checkpoint/builder.h"

namespace weft {

// Joins fp8 tensors `X` with their `X_scale_inv` (or `X_scale`): one value, one per row, or one per block of
// weight_block_size rows and columns, the last block of a row or column being shorter. Refuses (Code::unsupported)
// every other quant_method, and folders whose method is only told by a file of its own (quantize_config.json and such),
// but for ModelOpt's hf_quant_config.json. `folder` is the checkpoint's, `config` its config.json.
Status apply_quantization(CheckpointBuilder& builder, const Json& config, const std::string& folder);

// For a checkpoint of which config.json alone is there: adds those of `matrices` that it says are fp8, with their
// scales and without bytes. Left out are those that its lists of exceptions name.
Status describe_quantized(CheckpointBuilder& builder, const std::string& folder, std::span<const MatrixShape> matrices);

}  // namespace weft
