// A model of a folder of Hugging Face, or of another GGUF file, as a GGUF file: the tensors under llama.cpp's names and
// in its order of rows.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/hf_config.h"

namespace weft {

struct GgufFileOptions {
  // q8_0, q4_k or q6_k (gguf_blocks.h): the products of the layers are stored so. Where a row is no whole number of its
  // blocks, in q8_0, and where it is no whole number of those either, as it is. Embeddings, the head, routers and
  // latent attention's kv_b always stay as they are. None: so does everything.
  std::optional<StorageType> blocks;
  int threads = 0;                                            // that encode blocks; 0: ThreadTeam::default_size()
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of the source
};

struct GgufFileReport {
  int tensors = 0;
  int64_t bytes = 0;
  int inexact_norms = 0;             // whose 1 + w float32 cannot hold
  int encoded = 0;                   // tensors in blocks
  std::vector<std::string> others;   // "NAME: TYPE" of products that are not of the type that was asked for
  std::vector<std::string> skipped;  // tensors that the file leaves out: layers for multi-token prediction
};

// Writes temporary() of the writer that it returns, and finishes it; publish() is the caller's. `config`: the language
// model's part of the checkpoint's configuration, with the values that it leaves out. `more`: metadata behind the
// architecture's. One matrix (of experts: one expert's) is in memory at a time.
// Vectors and routers are float32 in the file, as llama.cpp needs them.
// Errors: the architecture has no name in llama.cpp; config.json says what the metadata cannot (the key is named); a
// tensor that has no name there, or is not float32, float16 or bfloat16.
struct WrittenGguf {
  GgufWriter writer;
  GgufFileReport report;
};
Result<WrittenGguf> write_gguf_file(const Checkpoint& checkpoint, const HfConfig& config, const GgufItems& more,
                                    const std::string& path, const GgufFileOptions& options);

}  // namespace weft
