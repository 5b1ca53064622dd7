// The safetensors format: 8 bytes header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

// Reads the header of a whole file in memory and checks it as strictly as the reference reader, and beyond (duplicate
// names are refused): the tensors' ranges must be as long as dtype and shape say and cover the data without gap or
// overlap. `path` is for messages. The tensors' spans point into `file`.
Result<std::vector<TensorInfo>> parse_safetensors(std::span<const std::byte> file, const std::string& path);

// Where the header ends: how much of `file`, whose first 8 bytes are there, parse_safetensors() looks at. Never more
// than the file has, nor than a header may have.
size_t safetensors_header_end(std::span<const std::byte> file);

}  // namespace weft
