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

}  // namespace weft
