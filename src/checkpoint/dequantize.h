// Stored values to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "checkpoint/storage_type.h"

namespace weft {

// Widens `values` (whole blocks) from `source`, which may start at any address. `type` is a float type other than
// `random`. Scalars are exact (f64 is rounded). Blocks follow ggml's dequantize_row_* in float32, operation by
// operation, so results equal the reference's to the bit.
void dequantize(StorageType type, const std::byte* source, int64_t values, float* out);
// The same without what the processor has beyond its base instruction set: what older machines run, for tests on newer
// ones.
void dequantize_base(StorageType type, const std::byte* source, int64_t values, float* out);

// The values and groups of scales of one block are no more than this.
constexpr int kMostBlockValues = 256, kMostBlockGroups = 16;
// Whether the values of a format are code * scale in float32, one scale for each group of values.
bool is_code_block(StorageType type);
// The codes and scales of one block of such a format; returns the values in a group.
int block_codes(StorageType type, const std::byte* block, int8_t* codes, float* scales);

}  // namespace weft
