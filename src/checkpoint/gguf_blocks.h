// Encodes floats in blocks of GGUF. What the blocks mean is ggml's definition (ggml-quants.c, dequantize_row_*), which
// dequantize.cc reads; how scales are found is this file's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "checkpoint/storage_type.h"

namespace weft {

// The largest magnitude that is encoded: beyond it a block's float16 scale would be infinite.
inline constexpr float kLargestInBlocks = 1e6f;

// q8_0, q4_k or q6_k by llama.cpp's name, or nothing.
std::optional<StorageType> encoded_type(std::string_view name);

// Encodes `count` finite values, whole blocks, of magnitudes up to kLargestInBlocks as blocks of that type (one of the
// three). Each block depends on its own values alone.
//   q8_0: a scale for 32 values, the largest magnitude / 127, as ggml has it.
//   q4_k: 256 values in 8 parts, each with a scale and a minimum of 6 bits; value = d * scale * code - dmin * minimum.
//   q6_k: 256 values in 16 parts, each with a scale of 8 bits; value = d * scale * (code - 32).
// Of the latter two the scales are searched for the least sum of squared errors.
void encode_blocks(StorageType type, const float* values, int64_t count, std::byte* out);

}  // namespace weft
