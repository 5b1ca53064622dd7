// Weights in fp8 with scales: one for the tensor, one per row, or one per block. They stay tensors of their type, with
// TensorInfo::scale set.
#pragma once

#include "checkpoint/builder.h"

namespace weft {

struct ScaleBlock {
  int64_t rows = 0, cols = 0;  // 0: no blocks
};

// Two whole numbers under `key`, or no blocks if it is absent or null.
Result<ScaleBlock> scale_block(const Json& settings, const char* key);
bool is_fp8(StorageType type);
// The tensor with a weight's factors, or null: X_scale_inv, X_scale, and for fused experts X_weight_scale.
const TensorInfo* find_scale(CheckpointBuilder& builder, const std::string& weight);
// Joins a weight with its scale, whose shape must be what the block says; without blocks it has one value, one per row
// (or, of fused experts [experts, in, out], one per expert or one per expert and output).
Status join_scale(CheckpointBuilder& builder, TensorInfo& weight, const TensorInfo& scale, ScaleBlock block);

}  // namespace weft
