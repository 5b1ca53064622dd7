// The tokenizer of a GGUF file as the files of a folder, and the other way. What one of the two forms cannot express is
// an error, so that both give the same ids.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace weft {

// Chat templates: name ("default" for the first) and source.
using NamedTemplates = std::vector<std::pair<std::string, std::string>>;

// Writes tokenizer.json and tokenizer_config.json. Errors: vocabularies of other kinds than "gpt2" and "llama"; tokens
// that are there twice; scores of "llama" that are equal, so that no order of merges follows.
Status write_tokenizer_files(const GgufVocabulary& vocabulary, const NamedTemplates& templates,
                             const std::string& folder);

// What a folder's tokenizer.json is in GGUF, for a model with `rows` embeddings: tokens that the folder lacks are
// unused ones named [PADn]. Byte-level models need a pre-tokenizer that tokenizer.ggml.pre has a name for, others a
// space before texts and merges that scores express. Errors (unsupported) say what has no counterpart.
Result<GgufVocabulary> gguf_vocabulary_of(const std::string& folder, size_t rows);

}  // namespace weft
