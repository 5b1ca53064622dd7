// Mistral: Llama whose attention may look back over a window only.
#include "models/models.h"

namespace weft::models {

using namespace blocks;

DecoderRecipe mistral(const HfConfig& c) {
  AttentionOptions a = llama_attention(c);
  if (c.has("sliding_window")) a.cache = CacheSpec::Kind::window, a.span = c.count("sliding_window");
  DecoderRecipe r = llama(c);
  r.attention = attention_with(a);
  return r;
}

}  // namespace weft::models
