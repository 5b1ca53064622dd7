// Floats as the bytes of a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/storage_type.h"

namespace weft {

// Round to nearest, ties to even; too large ones become infinite; NaN stays NaN.
uint16_t float_to_f16(float value);

// The values in a plain float type (f32, f16, bf16), rounded to nearest; `out` has room for them.
void store_floats(StorageType type, std::span<const float> values, std::byte* out);

// Whether storing the value in that type and reading it back gives its bits.
bool is_stored_exactly(StorageType type, float value);

}  // namespace weft
