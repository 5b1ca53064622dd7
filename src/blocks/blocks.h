// The parts that decoders are made of. Each block appends ops to a plan and returns the value it produced. Weight names
// are the checkpoint's own, reached through a Scope, so there is no table of renamings to keep in step.
#pragma once

#include <functional>
#include <span>
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

// Grouped-query attention: q, k and v in one product, norm and rotation of the heads, the cache, softmax attention,
// o_proj.
struct AttentionOptions {
  int hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int input = 0;  // columns of x; 0: hidden
  bool qkv_bias = false, out_bias = false;
  bool fused = false;      // q, k and v are one tensor, qkv_proj; without biases
  bool row_norms = false;  // q_norm and k_norm are RMS norms over all heads of a row at once
  kernels::HeadNorm head_norm = kernels::HeadNorm::none;  // weights q_norm and k_norm
  bool norm_after_rope = false;
  float eps = 1e-6f;
  float scale = 0.0f;     // of the scores; 0: 1 / sqrt(head_dim)
  float soft_cap = 0.0f;  // of the scores, see kernels::AttendArgs; 0: none
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
  bool fused = false;  // gate and up are one tensor, gate_up_proj; without biases
};
Value gated_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o);
// down(act(up(x)))
Value plain_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o);

// A mixture of experts: a router chooses some experts for every token, whose outputs are summed in order of their ids;
// plus an MLP that all tokens go through, if shared_width > 0.
struct ExpertsOptions {
  int hidden = 0, width = 0, shared_width = 0;
  kernels::Activation act = kernels::Activation::silu;
  kernels::RouteRule rule;
  bool choice_bias = false;  // the router's e_score_correction_bias
  bool scale_input = false;  // a weight multiplies its expert's input instead of the output (Llama 4)
  // tensors experts.gate_up_proj [experts, hidden, 2 width] and experts.down_proj [experts, width, hidden]
  bool fused = false;
  std::string router = "gate", gate = "gate_proj", up = "up_proj", down = "down_proj", shared = "shared_experts";
};
Value experts(PlanBuilder& b, Scope w, Value x, const ExpertsOptions& o);

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1) in its absorbed form: the cache holds one row
// [kv_rank normed | rope_dim rotated] per token, shared by all heads; kv_b_proj's key half is applied to the queries
// and its value half to the attention's output. The same form serves prefill and decode, so that both give the same
// bits.
struct LatentAttentionOptions {
  int hidden = 0, heads = 0;
  int q_rank = 0;  // 0: q_proj alone
  int kv_rank = 0, nope_dim = 0, rope_dim = 0, v_dim = 0;
  bool bias = false;  // on q_a_proj, kv_a_proj_with_mqa and o_proj
  // In place of kv_b_proj: k_b_proj [heads, kv_rank, nope_dim], whose matrices are transposed, and v_b_proj [heads,
  // v_dim, kv_rank] (GGUF).
  bool split_kv_b = false;
  float low_rank_eps = 1e-6f;  // of the two inner norms
  RopeAngles rope;
  bool rope_interleaved = true;
  float scale = 1.0f;
};
Value latent_attention(PlanBuilder& b, Scope w, Value x, const LatentAttentionOptions& o);

// ---- The frame that puts blocks together ----------------------------------------------------------------------------

struct DecoderRecipe;
using BlockFn = std::function<Value(PlanBuilder&, Scope w, int layer, Value x)>;
using LayerFn = std::function<Value(PlanBuilder&, Scope w, int layer, Value x, const DecoderRecipe&)>;
using EmbedFn = std::function<Value(PlanBuilder&, Scope root, const DecoderRecipe&)>;
using HeadFn = std::function<void(PlanBuilder&, Scope root, Value x, const DecoderRecipe&)>;

// A model is a recipe: what attention and mlp are, how a layer joins them, and what the head computes. Variants start
// from a parent's recipe and replace the parts that differ. Callables run at load time only.
struct DecoderRecipe {
  int hidden = 0, layers = 0, vocab = 0;
  int embed_rows = 0;  // of embed_tokens; 0: vocab
  bool tied_embeddings = false;
  float embed_scale = 1.0f;
  float residual_scale = 1.0f;                 // of what pre_norm_layer adds
  float logit_scale = 1.0f, logit_cap = 0.0f;  // of lm_head's output: a factor, then a soft cap (0: none)
  NormOptions norm;
  BlockFn attention, mlp;
  LayerFn layer;
  EmbedFn embed;
  HeadFn head;
  std::string root;                   // what the names of all tensors begin with
  std::string body = "model";         // where the layers live, below root
  std::string layer_list = "layers";  // and their name there
};

BlockFn attention_with(AttentionOptions o);
BlockFn gated_mlp_with(MlpOptions o);
BlockFn experts_with(ExpertsOptions o);
BlockFn latent_attention_with(LatentAttentionOptions o);

// x += attention(norm(x)); x += mlp(norm(x))
Value pre_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r);
// x += norm(attention(x)); x += norm(mlp(x)) (OLMo 2)
Value post_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r);
// The branches are normed on both sides (Gemma 2 and 3).
Value sandwich_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r);

// embed_tokens, tied to the output or not.
Value embed_tokens(PlanBuilder& b, Scope root, const DecoderRecipe& r);

// Heads get all rows of the last layer's output, and put the last norm and what follows on the rows whose output is
// wanted. Logits of the next token.
void lm_head(PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r);
// score.2(relu(score.0(x))), both with bias (Qwen2's reward models).
HeadFn score_head(HeadKind kind, int labels);

// `taps`: the residual stream after so many layers (0: the embeddings, layers: before the last norm) becomes
// Plan::taps, one after the other.
void build_model(PlanBuilder& b, const DecoderRecipe& r, std::span<const int> taps = {});

}  // namespace weft::blocks
