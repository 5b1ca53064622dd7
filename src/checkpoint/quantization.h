// What a checkpoint folder says about quantised weights, and in which format its readers (quant/) find them.
#pragma once

#include "checkpoint/builder.h"

namespace weft {

// Replaces the tensors of quantised modules by the matrices that they make (quant/formats.h), by what config.json's
// quantization_config says, or else hf_quant_config.json (ModelOpt), quantize_config.json (GPTQ) or quant_config.json
// (AWQ). Refuses methods that are not read (Code::unsupported), and whatever contradicts itself, with the first such
// tensor's name. `folder` is the checkpoint's, `config` its config.json; tensors have the names of apply_names().
Status apply_quantization(CheckpointBuilder& builder, const Json& config, const std::string& folder);

// For a checkpoint of which config.json alone is there: adds those of `matrices` that it says are fp8, with their
// scales and without bytes. Left out are those that its lists of exceptions name.
Status describe_quantized(CheckpointBuilder& builder, const std::string& folder, std::span<const MatrixShape> matrices);

}  // namespace weft
