// What a GGUF file says of a model besides its architecture: name, tokenizer, chat template, sampling values.
#pragma once

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "text/gguf_tokenizer_files.h"

namespace weft {

struct GgufExtras {
  GgufItems items;
  std::vector<std::string> notes;  // what the file cannot say, in sentences
};

// `rows`: of the embedding. Errors: a tokenizer that GGUF cannot express (text/gguf_tokenizer_files.h).
Result<GgufExtras> gguf_extras(const Checkpoint& checkpoint, size_t rows);

}  // namespace weft
