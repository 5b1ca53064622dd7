// A GGUF file with the encoder of images of a model (llama.cpp's "mmproj").
#pragma once

#include <string>

#include "checkpoint/builder.h"
#include "checkpoint/gguf_metadata.h"

namespace weft {

// What a model with its encoder is: config.json, and the settings files for images by their names.
struct GgufMedia {
  Json config, settings;
  std::string text_prefix;  // before the names of the language model's tensors
};

// `text`: the model's own config (gguf_config()), `model` its metadata. Errors: a projector that is not known, or that
// does not belong to the model; sizes that are missing or wrong, with their keys.
Result<GgufMedia> gguf_media(const GgufHeader& encoder, const Json& text, const GgufMetadata& model);

// Adds the encoder's tensors under Hugging Face's names.
Status add_gguf_media_tensors(CheckpointBuilder& builder, GgufHeader& encoder);

}  // namespace weft
