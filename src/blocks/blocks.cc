#include "blocks/blocks.h"

#include <cmath>

namespace weft::blocks {
namespace {

std::vector<TensorRows> biases(std::initializer_list<std::pair<Scope, int>> sources) {
  std::vector<TensorRows> list;
  for (const auto& [scope, rows] : sources) list.push_back({scope.path() + ".bias", 0, rows});
  return list;
}

}  // namespace

Value norm(PlanBuilder& b, Scope w, Value x, NormOptions o) {
  const bool layer = o.kind == NormKind::layer || o.kind == NormKind::layer_one_plus;
  const bool one_plus = o.kind == NormKind::rms_one_plus || o.kind == NormKind::layer_one_plus;
  return b.norm(x, w, layer, one_plus, o.bias, o.eps);
}

Value attention(PlanBuilder& b, Scope w, Value x, const AttentionOptions& o) {
  const PlanBuilder::Module inside(b, w);
  const int q_cols = o.heads * o.head_dim, kv_cols = o.kv_heads * o.head_dim;
  Matrix in{.sources = {whole(w / "q_proj", q_cols), whole(w / "k_proj", kv_cols), whole(w / "v_proj", kv_cols)},
            .k = o.input > 0 ? o.input : o.hidden};
  if (o.fused) in.sources = {whole(w / "qkv_proj", q_cols + 2 * kv_cols)};
  if (o.qkv_bias) in.biases = biases({{w / "q_proj", q_cols}, {w / "k_proj", kv_cols}, {w / "v_proj", kv_cols}});
  const Value qkv = b.linear(x, std::move(in));

  HeadsOptions h{.heads = o.heads,
                 .dim = o.head_dim,
                 .norm = o.head_norm,
                 .norm_after = o.norm_after_rope,
                 .eps = o.eps,
                 .interleaved = o.rope_interleaved};
  HeadsOptions kv_h = h;
  kv_h.heads = o.kv_heads;
  h.floor_scale = o.temperature_floor, h.attn_scale = o.temperature_scale;
  Value q = b.slice(qkv, 0, q_cols), k = b.slice(qkv, q_cols, kv_cols);
  if (o.row_norms) b.norm_into(q, q, w / "q_norm", false, o.eps), b.norm_into(k, k, w / "k_norm", false, o.eps);
  q = b.heads(q, w / "q_norm", o.rope, h), k = b.heads(k, w / "k_norm", o.rope, kv_h);
  const Value v = b.slice(qkv, q_cols + kv_cols, kv_cols);

  const CacheRef cache = b.cache(
      {.kind = o.cache, .kv_heads = o.kv_heads, .k_dim = o.head_dim, .v_dim = o.head_dim, .span = o.span}, o.heads);
  b.append(k, v, cache);
  const float scale = o.scale != 0 ? o.scale : 1.0f / std::sqrt(static_cast<float>(o.head_dim));
  const Value out = b.attend(q, cache, o.heads, scale, o.soft_cap);

  Matrix project{
      .sources = {whole(w / "o_proj", o.hidden)}, .k = q_cols, .shard = Shard::rows, .shard_unit = o.head_dim};
  if (o.out_bias) project.biases = biases({{w / "o_proj", o.hidden}});
  return b.linear(out, std::move(project));
}

Value gated_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o) {
  const PlanBuilder::Module inside(b, w);
  Matrix in{.sources = {whole(w / "gate_proj", o.width), whole(w / "up_proj", o.width)}, .k = o.hidden};
  if (o.fused) in.sources = {whole(w / "gate_up_proj", 2 * o.width)};
  Matrix out{.sources = {whole(w / "down_proj", o.hidden)}, .k = o.width, .shard = Shard::rows};
  if (o.bias)
    in.biases = biases({{w / "gate_proj", o.width}, {w / "up_proj", o.width}}),
    out.biases = biases({{w / "down_proj", o.hidden}});
  return b.linear(b.activate(b.linear(x, std::move(in)), o.act, true), std::move(out));
}

Value plain_mlp(PlanBuilder& b, Scope w, Value x, const MlpOptions& o) {
  const PlanBuilder::Module inside(b, w);
  Matrix in{.sources = {whole(w / "up_proj", o.width)}, .k = o.hidden};
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

BlockFn experts_with(ExpertsOptions o) {
  return [o = std::move(o)](PlanBuilder& b, Scope w, int, Value x) { return experts(b, w, x, o); };
}

BlockFn latent_attention_with(LatentAttentionOptions o) {
  return [o = std::move(o)](PlanBuilder& b, Scope w, int, Value x) { return latent_attention(b, w, x, o); };
}

Value pre_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r) {
  const auto scaled = [&](Value h) {
    return r.residual_scale == 1 ? h : b.elementwise(kernels::Scale{r.residual_scale}, h);
  };
  x = b.add(x, scaled(r.attention(b, w / "self_attn", layer, norm(b, w / "input_layernorm", x, r.norm))));
  return b.add(x, scaled(r.mlp(b, w / "mlp", layer, norm(b, w / "post_attention_layernorm", x, r.norm))));
}

Value post_norm_layer(PlanBuilder& b, Scope w, int layer, Value x, const DecoderRecipe& r) {
  x = b.add(x, norm(b, w / "post_attention_layernorm", r.attention(b, w / "self_attn", layer, x), r.norm));
  return b.add(x, norm(b, w / "post_feedforward_layernorm", r.mlp(b, w / "mlp", layer, x), r.norm));
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
  return {.sources = {whole(w, r.vocab)}, .k = r.hidden};
}

// Only rows whose output is wanted go through the last norm and the head.
Value last_norm(PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r) {
  return norm(b, root / r.body / "norm", b.select(x), r.norm);
}

}  // namespace

Value embed_tokens(PlanBuilder& b, Scope root, const DecoderRecipe& r) {
  if (r.tied_embeddings) return b.embed_tied(b.matrix(output_matrix(root, r)), r.embed_scale);
  return b.embed(root / r.body / "embed_tokens", r.embed_rows > 0 ? r.embed_rows : r.vocab, r.hidden, r.embed_scale);
}

void lm_head(PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r) {
  if (r.tied_embeddings) b.ignore(root / "lm_head");  // some tied files carry a copy
  Value logits = b.linear(last_norm(b, root, x, r), output_matrix(root, r));
  if (r.logit_scale != 1) logits = b.elementwise(kernels::Scale{r.logit_scale}, logits);
  if (r.logit_cap > 0) logits = b.elementwise(kernels::SoftCap{r.logit_cap}, logits);
  b.set_output(logits, HeadKind::lm);
}

HeadFn score_head(HeadKind kind, int labels) {
  return [kind, labels](PlanBuilder& b, Scope root, Value x, const DecoderRecipe& r) {
    const Scope first = root / "score" / 0, second = root / "score" / 2;
    b.ignore(root / "lm_head");
    x = b.linear(last_norm(b, root, x, r),
                 {.sources = {whole(first, r.hidden)}, .biases = biases({{first, r.hidden}}), .k = r.hidden});
    const PlanBuilder::Module inside(b, root / "score");
    x = b.activate(x, kernels::Activation::relu, false);
    b.set_output(b.linear(x, {.sources = {whole(second, labels)}, .biases = biases({{second, labels}}), .k = r.hidden}),
                 kind);
  };
}

void build_model(PlanBuilder& b, const DecoderRecipe& r, std::span<const int> taps) {
  const Scope root(r.root), layers = root / r.body / r.layer_list;
  const PlanBuilder::Module inside(b, root / r.body);
  const Value tapped = taps.empty() ? Value() : b.buffer(static_cast<int>(taps.size()) * r.hidden);
  // A copy, since layers may change x in its place.
  const auto tap = [&](Value x, int done) {
    for (size_t t = 0; t < taps.size(); ++t)
      if (taps[t] == done) b.place(x, b.slice(tapped, static_cast<int>(t) * r.hidden, r.hidden));
  };
  Value x = r.embed(b, root, r);
  tap(x, 0);
  for (int i = 0; i < r.layers; ++i) {
    const PlanBuilder::Module inside_layer(b, layers / i);
    b.begin_layer();
    x = r.layer(b, layers / i, i, x, r);
    tap(x, i + 1);
  }
  b.set_taps(tapped);
  r.head(b, root, x, r);
}

}  // namespace weft::blocks
