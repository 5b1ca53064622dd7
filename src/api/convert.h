// `weft convert`: a model in another file format, with the values that it has.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "checkpoint/storage_type.h"

namespace weft {

struct ConvertOptions {
  // float32, float16 or bfloat16: what tensors of a GGUF file that are stored in blocks (Q4_K, ...) are widened to;
  // none: such files are refused.
  std::optional<DType> dtype;
  // q8_0, q4_k or q6_k: what the products of a GGUF file that is written are stored in (checkpoint/gguf_file.h); none:
  // as they are.
  std::optional<StorageType> blocks;
  int threads = 0;  // that encode them; 0: the physical cores of this process, within its CPU quota
  LoadMode load_mode = LoadMode::mmap;
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of the source
};

struct ConvertReport {
  int tensors = 0;
  int64_t bytes = 0;               // of all tensors, as written
  int encoded = 0;                 // tensors in blocks
  std::vector<std::string> notes;  // sentences about what is not as it was
};

// A GGUF file becomes a folder of Hugging Face at `out`, which must not exist or be empty; a folder becomes the GGUF
// file `out`, which must not exist and end in .gguf. With `blocks` the model may be a GGUF file of floats, too. What
// was written is removed where it fails. Errors: see write_gguf_folder, write_gguf_file and
// text/gguf_tokenizer_files.h; a configuration that says what GGUF's metadata cannot, so that the file would compute
// something else.
Result<ConvertReport> convert_model(const std::string& model, const std::string& out, const ConvertOptions& options);

}  // namespace weft
