// A GGUF file's model as a folder of Hugging Face: config.json, generation_config.json and the tensors in safetensors.
// The tokenizer's files: text/gguf_tokenizer_files.h.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"

namespace weft {

struct GgufFolderOptions {
  // Plain float type that tensors in blocks (Q4_K, ...) are widened to; none: they are refused.
  std::optional<StorageType> widen;
  int64_t shard_bytes = int64_t{5} << 30;                     // a file ends once it has so many
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of the source
};

struct GgufFolderReport {
  int tensors = 0;
  int64_t bytes = 0;
  int widened = 0;  // tensors that were stored in blocks
};

// `folder` must exist. One matrix is in memory at a time. Float tensors keep their type; but where matrices are float16
// or bfloat16, a float32 tensor whose values are all of that type is written in it, since llama.cpp's files have
// vectors and routers in float32 whatever the model's type. Rows are in Hugging Face's order, norms without the 1 that
// is added to them, latent attention's k_b and v_b are one kv_b_proj, and Llama 4's experts one tensor for all.
// rope_freqs.weight becomes Llama 3's rope_scaling.
// Errors: tensors in blocks without `widen`, named; tensors that no name of Hugging Face is known for; rope factors
// that are not Llama 3's; a model with an encoder of images beside it.
Result<GgufFolderReport> write_gguf_folder(const Checkpoint& gguf, const std::string& folder,
                                           const GgufFolderOptions& options);

// The parameters of Llama 3's rope_scaling that lead to these divisors of the frequencies theta^(-2i/dims), or null:
// {"rope_type": "llama3", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}.
Json llama3_scaling(std::span<const float> divisors, double theta);

}  // namespace weft
