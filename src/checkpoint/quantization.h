// What a checkpoint folder says about quantised weights, and the one method that is read: fp8 with scales.
#pragma once

#include "checkpoint/checkpoint_builder.h"

namespace weft {

// Joins fp8 weights `X.weight` with their `X.weight_scale_inv` (or `X.weight_scale`): one value, one per row, or one per block of
// weight_block_size rows and columns, the last block of a row or column being shorter. Refuses (Code::unsupported) every other
// quant_method, and folders whose method is only told by a file of its own (hf_quant_config.json and such). `folder` is the
// checkpoint's.
Status apply_quantization(CheckpointBuilder& builder, const std::string& folder);

}  // namespace weft
