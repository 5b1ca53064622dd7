// A prompt's images on their way to a server that computes the prompt: pixels, where their features go, and positions.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "core/media_prompt.h"
#include "media/processor.h"

namespace weft {

struct PromptMedia {
  std::vector<std::shared_ptr<const PreparedMedia>> media;
  std::shared_ptr<MediaPrompt> places;  // its features are unset
};

std::vector<std::byte> encode_media(const PromptMedia& media);
// For a prompt of so many tokens. Errors (invalid_argument): what is malformed, or points to a place that is not there.
Result<PromptMedia> decode_media(std::span<const std::byte> bytes, int tokens);

}  // namespace weft
