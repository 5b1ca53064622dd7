// Prompts with images: from the URLs or files in a request to prepared images, expanded token ids and the positions of
// their features.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "api/engine.h"
#include "cache/block_key.h"
#include "core/media_limits.h"
#include "core/media_prompt.h"
#include "media/account.h"
#include "media/processor.h"
#include "media/url.h"

namespace weft {

class Tokenizer;
struct Model;

struct ImagePrompt {
  std::vector<int32_t> tokens;
  std::vector<std::shared_ptr<const PreparedMedia>> media;  // empty: text alone
  std::shared_ptr<MediaPrompt> places;                      // with `media`; its features are still unset
  std::vector<ContentSpan> content;                         // what the block keys need to know of the images
};

// The prompt's text, with placeholders in it, once its images are prepared.
using PromptText = std::function<Result<std::string>(std::span<const PreparedMedia> media)>;

// Where images come from, and what they may take.
struct MediaSource {
  UrlOptions urls;
  MediaLimits limits;
  const MediaAccount* account = nullptr;  // that all requests share; null: nobody counts
};

// Reads and prepares the request's images and videos and puts them into the prompt: `text`, or the request's own token
// ids. Errors name the image, counted from 1; what all of them take is known from their headers and charged before the
// first is decoded (too_large, or resource_exhausted while others hold the memory). Blocks while images are fetched.
// Depending on the model, the result also has positions on several axes (M-RoPE) or the keys of cross attention.
Result<ImagePrompt> image_prompt(const Request& request, const PromptText& text, bool add_special_tokens,
                                 const MediaProcessor& processor, const Tokenizer& tokenizer, const MediaSource& source,
                                 const Model& model);

}  // namespace weft
