#include "blocks/blocks.h"

#include <cmath>

namespace weft::blocks {
namespace {

std::vector<TensorRows> biases(std::initializer_list<std::pair<Scope, int>> sources) {
  std::vector<TensorRows> list;
  for (const auto& [scope, rows] : sources) list.push_back({scope.path() + ".bias", 0, rows, rows});
  return list;
}

}  // namespace

Value norm(PlanBuilder& b, Scope w, Value x, NormOptions o) {
  const bool layer = o.kind == NormKind::layer || o.kind == NormKind::layer_one_plus;
  const bool one_plus = o.kind == NormKind::rms_one_plus || o.kind == NormKind::layer_one_plus;
  return b.norm(x, w, layer, one_plus, o.bias, o.eps);
}

Value attention(PlanBuilder& b, Scope w, Value x, const AttentionOptions& o) {
  const int q_cols = o.heads * o.head_dim, kv_cols = o.kv_heads * o.head_dim;
  Matrix in{.sources = {whole(w / "q_proj", q_cols), whole(w / "k_proj", kv_cols), whole(w / "v_proj", kv_cols)}, .k = o.hidden, .shard = Shard::columns};
  if (o.qkv_bias) in.biases = biases({{w / "q_proj", q_cols}, {w / "k_proj", kv_cols}, {w / "v_proj", kv_cols}});
  const Value qkv = b.linear(x, std::move(in));

  HeadsOptions h{.heads = o.heads, .dim = o.head_dim, .norm = o.head_norm, .norm_after = o.norm_after_rope, .eps = o.eps,
                 .interleaved = o.rope_interleaved};
  HeadsOptions kv_h = h;
  kv_h.heads = o.kv_heads;
  h.floor_scale = o.temperature_floor, h.attn_scale = o.temperature_scale;
  const Value q = b.heads(b.slice(qkv, 0, q_cols), w / "q_norm", o.rope, h);
  const Value k = b.heads(b.slice(qkv, q_cols, kv_cols), w / "k_norm", o.rope, kv_h);
  const Value v = b.slice(qkv, q_cols + kv_cols, kv_cols);

  const CacheRef cache =
      b.cache({.kind = o.cache, .kv_heads = o.kv_heads, .k_dim = o.head_dim, .v_dim = o.head_dim, .span = o.span}, o.heads);
  b.append(k, v, cache);
  const float scale = o.scale != 0 ? o.scale : 1.0f / std::sqrt(static_cast<float>(o.head_dim));
  const Value out = b.attend(q, cache, o.heads, scale);

  Matrix project{.sources = {whole(w / "o_proj", o.hidden)}, .k = q_cols, .shard = Shard::rows, .shard_unit = o.head_dim};
  if (o.out_bias) project.biases = biases({{w / "o_proj", o.hidden}});
  return b.linear(out, std::move(project));
}

Value gated_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o) {
  Matrix in{.sources = {whole(w / "gate_proj", o.width), whole(w / "up_proj", o.width)}, .k = o.hidden, .shard = Shard::columns};
  Matrix out{.sources = {whole(w / "down_proj", o.hidden)}, .k = o.width, .shard = Shard::rows};
  if (o.bias) in.biases = biases({{w / "gate_proj", o.width}, {w / "up_proj", o.width}}), out.biases = biases({{w / "down_proj", o.hidden}});
  return b.linear(b.activate(b.linear(x, std::move(in)), o.act, true), std::move(out));
}

Value plain_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o) {
  Matrix in{.sources = {whole(w / "up_proj", o.width)}, .k = o.hidden, .shard = Shard::columns};
  Matrix out{.sources = {whole(w / "down_proj", o.hidden)}, .k = o.width, .shard = Shard::rows};
  if (o.bias) in.biases = biases({{w / "up_proj", o.width}}), out.biases = biases({{w / "down_proj", o.hidden}});
  return b.linear(b.activate(b.linear(x, std::move(in)), o.act, false), std::move(out));
}

BlockFn attention_with(AttentionOptions o) {
  return [o = std::move(o)](PlanBuilder& b, Scope w, int, Value x) { return attention(b, w, x, o); };
}

BlockFn gated_mlp_with(MlpOptions o) {
  return [o](PlanBuilder& b, Scope w, int, Value x) { return gated_mlp(b, w, x, o); };
}

Value pre_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r) {
  x = b.add(x, r.attention(b, w / "self_attn", layer, norm(b, w / "input_layernorm", x, r.norm)));
  return b.add(x, r.mlp(b, w / "mlp", layer, norm(b, w / "post_attention_layernorm", x, r.norm)));
}

Value sandwich_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r) {
  Value h = r.attention(b, w / "self_attn", layer, norm(b, w / "input_layernorm", x, r.norm));
  x = b.add(x, norm(b, w / "post_attention_layernorm", h, r.norm));
  h = r.mlp(b, w / "mlp", layer, norm(b, w / "pre_feedforward_layernorm", x, r.norm));
  return b.add(x, norm(b, w / "post_feedforward_layernorm", h, r.norm));
}

namespace {

Matrix output_matrix(Scope root, const DecoderRecipe& r) {
  const Scope w = r.tied_embeddings ? root / r.body / "embed_tokens" : root / "lm_head";
  return {.sources = {whole(w, r.vocab)}, .k = r.hidden, .shard = Shard::columns};
}

}  // namespace

void lm_head(PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r) {
  b.set_output(b.linear(x, output_matrix(root, r)), HeadKind::lm);
}

void build_decoder(PlanBuilder& b, Scope root, const DecoderRecipe& r) {
  const Scope body = root / r.body;
  Value x = r.tied_embeddings ? b.embed_tied(b.matrix(output_matrix(root, r)), r.embed_scale)
                              : b.embed(body / "embed_tokens", r.vocab, r.hidden, r.embed_scale);
  for (int i = 0; i < r.layers; ++i) x = r.layer(b, body / "layers" / i, i, x, r);
  // Only rows whose output is wanted go through the last norm and the head.
  r.head(b, root, norm(b, body / "norm", b.select(x), r.norm), r);
}

}  // namespace weft::blocks
