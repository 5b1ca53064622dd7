// The parts that decoders are made of. Each block appends ops to a plan and returns the value it produced. Weight names are the
// checkpoint's own, reached through a Scope, so there is no table of renamings to keep in step.
#pragma once

#include <functional>
#include <string>

#include "plan/plan_builder.h"

namespace weft::blocks {

enum class NormKind : uint8_t { rms, rms_one_plus, layer, layer_one_plus };
struct NormOptions {
  NormKind kind = NormKind::rms;
  float eps = 1e-6f;
  bool bias = false;  // layer norms only
};
Value norm(PlanBuilder& b, Scope w, Value x, NormOptions o);

// Grouped-query attention: q, k and v in one product, norm and rotation of the heads, the cache, softmax attention, o_proj.
struct AttentionOptions {
  int hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false, out_bias = false;
  kernels::HeadNorm head_norm = kernels::HeadNorm::none;  // weights q_norm and k_norm
  bool norm_after_rope = false;
  float eps = 1e-6f;
  float scale = 0.0f;  // of the scores; 0: 1 / sqrt(head_dim)
  RopeAngles rope;
  bool rope_interleaved = false;
  float temperature_floor = 0, temperature_scale = 0;  // Llama 4, see kernels::HeadsArgs; 0: off
  CacheSpec::Kind cache = CacheSpec::Kind::full;
  int span = 0;
};
Value attention(PlanBuilder& b, Scope w, Value x, const AttentionOptions& o);

// down(act(gate(x)) * up(x))
struct MlpOptions {
  int hidden = 0, width = 0;
  kernels::Activation act = kernels::Activation::silu;
  bool bias = false;
};
Value gated_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o);
// down(act(up(x)))
Value plain_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o);

// ---- The frame that puts blocks together ------------------------------------------------------------------------------------

struct DecoderRecipe;
using BlockFn = std::function<Value(PlanBuilder&, Scope w, int layer, Value x)>;
using LayerFn = std::function<Value(PlanBuilder&, Scope w, int layer, Value x, const DecoderRecipe&)>;
using HeadFn = std::function<void(PlanBuilder&, Scope root, Value x, const DecoderRecipe&)>;

// A model is a recipe: what attention and mlp are, how a layer joins them, and what the head computes. Variants start from a
// parent's recipe and replace the parts that differ. Callables run at load time only.
struct DecoderRecipe {
  int hidden = 0, layers = 0, vocab = 0;
  bool tied_embeddings = false;
  float embed_scale = 1.0f;
  NormOptions norm;
  BlockFn attention, mlp;
  LayerFn layer;
  HeadFn head;
  std::string body = "model";  // where the decoder lives in the checkpoint
};

BlockFn attention_with(AttentionOptions o);
BlockFn gated_mlp_with(MlpOptions o);

// x += attention(norm(x)); x += mlp(norm(x))
Value pre_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r);
// The branches are normed on both sides (Gemma 3).
Value sandwich_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r);
// Logits of the rows whose output is wanted.
void lm_head(PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r);

void build_decoder(PlanBuilder& b, Scope root, const DecoderRecipe& r);

}  // namespace weft::blocks
