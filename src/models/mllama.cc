// Mllama (Llama 3.2 Vision): Llama with layers of cross attention to pictures between its own. Without a picture those layers are
// skipped whole, their MLP included.
#include <algorithm>

#include "models/models.h"

namespace weft::models {

using namespace blocks;

DecoderRecipe mllama(const HfConfig& whole) {
  constexpr int kExtraRows = 8;  // embed_tokens has rows for the picture token and a reserve; lm_head has not
  const HfConfig c = text_config(whole);
  DecoderRecipe r = llama(c);
  r.root = "language_model";
  r.embed_rows = r.vocab + kExtraRows;
  r.layer = [cross = c.indices("cross_attention_layers")](PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& own) {
    if (std::find(cross.begin(), cross.end(), layer) == cross.end()) return pre_norm_layer(b, w, layer, x, own);
    b.ignore(w);
    return x;
  };
  r.embed = [](PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    b.ignore(Scope("vision_model")), b.ignore(Scope("multi_modal_projector"));
    return embed_tokens(b, root, own);
  };
  return r;
}

}  // namespace weft::models
