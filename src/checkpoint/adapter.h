// Low-rank adapters (LoRA, arXiv 2106.09685) on disk: a folder that PEFT wrote (adapter_config.json and
// adapter_model.safetensors), or a GGUF file of general.type "adapter". A module's product y = x W^T becomes
// y + scale * (x A^T) B^T, with A [rank, in] and B [out, rank].
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"

namespace weft {

struct AdapterPair {
  int rank = 0;
  int64_t in = 0, out = 0;
  // lora_alpha / rank, with use_rslora / sqrt(rank); rank_pattern and alpha_pattern name modules with their own
  float scale = 1.0f;
  std::vector<float> a, b;     // [rank, in], [out, rank]
  std::string a_name, b_name;  // the file's tensors, for messages
};

// The bytes of an adapter's files, as they are sent to ranks in other processes.
struct AdapterFiles {
  std::string path;    // as it was named
  std::string file;    // that has the tensors
  std::string config;  // adapter_config.json; empty: a GGUF file
  std::string tensors;
};

struct Adapter {
  std::string path, file;                    // for messages
  std::map<std::string, AdapterPair> pairs;  // by module, as Checkpoint names its tensors without ".weight"
  int largest_rank = 0;
  // Of all pairs and their scales: adapters with equal digests give the same answers.
  Digest digest{};
};

// What lies at `path`, read whole: what changes there afterwards changes nothing. not_found, or data_corrupt for files
// that change while they are read.
Result<AdapterFiles> read_adapter_files(const std::string& path);
// Errors name the tensor and the file: a pair that is not whole, shapes that do not fit each other, numbers that are
// not finite, tensors that are no part of a pair; unsupported for what PEFT can do and this cannot (DoRA, biases,
// modules_to_save, ...), with the key. Whether the modules are the model's is for the plan to say (plan/adapters.h).
// `base`: config.json of the model (Checkpoint::config()), by which modules are called as its tensors are.
Result<std::shared_ptr<const Adapter>> parse_adapter(const AdapterFiles& files, const Json& base);

}  // namespace weft
