// Everything of a model that deals in text and images: tokenizer, chat template, image processor. Read beside the
// weights.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "media/processor.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft {

struct GgufTokenizer;  // checkpoint/checkpoint.h

// The vocabulary and the chat templates (the first is named "default") of a GGUF file's metadata.
GgufVocabulary vocabulary_of(const GgufTokenizer& tokenizer);
std::vector<ChatTemplate::Named> templates_of(const GgufTokenizer& tokenizer);

// The files below the model's path that load_text() reads, or would if they were there, as they are now.
FileStamps text_files(const std::string& path);

struct TextSide {
  std::shared_ptr<const Tokenizer> tokenizer;         // null: the checkpoint has none
  std::shared_ptr<const ChatTemplate> chat_template;  // null likewise
  std::unique_ptr<const MediaProcessor> media;        // null: takes no images
};

// The tokens of a GGUF file's vocabulary that end an answer by their names, whatever its keys say: those of llama.cpp.
std::vector<int32_t> named_end_ids(const Tokenizer& tokenizer);

// From a model's folder or GGUF file. What is absent is null; what is broken is an error, but for the model's chat
// template: one that does not parse is a warning, and rendering it an error. `template_file`: a template instead of the
// model's, which must parse; empty: none. `mmproj`: see Checkpoint::open.
Result<TextSide> load_text(const std::string& path, const std::string& template_file, const std::string& mmproj = {});

}  // namespace weft
