// Writes a checkpoint with weights of 8, 4 or 3 bits from one with floats, in the spelling of compressed-tensors
// (pack-quantized), which other engines read as well. Without calibration the codes and scales of 8 and 4 bits are
// those that --quantize makes while loading (kernels/quantize.h).
//
// A quantised matrix `X.weight` [out, in] becomes
//   X.weight_packed  int32 [out, in * bits / 32]: codes plus 2^(bits-1), the first column in the lowest bits; codes of
//                    3 bits may lie in two words
//   X.weight_scale   bfloat16 [out, in / group]
//   X.weight_shape   int64 [2]
// and config.json gets a quantization_config that says so, with the modules that stay as they were under "ignore".
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "plan/plan.h"

namespace weft {

struct QuantizeOptions {
  int bits = 4;  // 8: groups of 64; 4 and 3: groups of 32
  // By tensor: how much an error in each column counts, as mean squares of the inputs over some text have it
  // (calibration.h). Those of tensors that are not there count alike. For 4 and 3 bits.
  std::map<std::string, std::vector<float>> importance = {};
  int64_t shard_bytes = int64_t{5} << 30;                     // a file ends once it has so many
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of the source
};

struct QuantizeReport {
  int matrices = 0;                           // that were quantised
  int calibrated = 0;                         // of these: with the importance of their columns
  int64_t bytes_before = 0, bytes_after = 0;  // of all tensors
  std::vector<std::string> kept;              // products that stay floats, by their tensor's name
};

// `plan` is the checkpoint's, as recorded. Quantised are the weights of its products; the head, routers, and what it
// does not compute with (vision towers, norms, embeddings) are copied. `folder` must not exist or be empty, and has in
// the end what the source's folder has: tokenizer, templates and settings. One matrix is in memory at a time. Errors:
// the checkpoint is a GGUF file, or quantised already; a product's weight is stored other than as a matrix of its own
// (Llama 4's fused experts); the folder cannot be written.
Result<QuantizeReport> quantize_checkpoint(const Checkpoint& checkpoint, const Plan& plan, const std::string& folder,
                                           const QuantizeOptions& options);

}  // namespace weft
