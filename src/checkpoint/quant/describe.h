// How a matrix would be stored, from the settings of a checkpoint alone: for estimates without its files.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "checkpoint/quant/coded_matrix.h"

namespace weft {

// A matrix [rows, cols] of codes without bytes, as the method stores it. Nothing: the method stores fp8 with scales, or
// no quantised matrix of that module. `name`: with its ".weight". Code::unsupported for what is not read.
Result<std::optional<CodedMatrix>> describe_coded(const std::string& method, const Json& settings,
                                                  const std::string& name, int64_t rows, int64_t cols);

}  // namespace weft
