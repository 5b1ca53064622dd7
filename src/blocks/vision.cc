#include "blocks/vision.h"

#include <cmath>

namespace weft::blocks {
namespace {

TensorRows bias_of(Scope w, int rows) { return {w.path() + ".bias", 0, rows}; }

Value encoder_attention(PlanBuilder& b, Scope w, Value x, const EncoderLayerOptions& o) {
  const PlanBuilder::Module inside(b, w);
  const int dim = o.hidden / o.heads;
  Matrix in{.k = o.hidden};
  if (!o.fused.empty()) {
    in.sources = {whole(w / o.fused, 3 * o.hidden)};
    if (o.qkv_bias) in.biases = {bias_of(w / o.fused, 3 * o.hidden)};
  } else {
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      in.sources.push_back(whole(w / name, o.hidden));
      if (o.qkv_bias) in.biases.push_back(bias_of(w / name, o.hidden));
    }
  }
  const Value qkv = b.linear(x, std::move(in));
  const HeadsOptions heads{.heads = o.heads, .dim = dim, .interleaved = o.rope_interleaved};
  const Value q = b.heads(b.slice(qkv, 0, o.hidden), w, o.rope, heads),
              k = b.heads(b.slice(qkv, o.hidden, o.hidden), w, o.rope, heads);
  const CacheRef cache = b.local_cache({.kv_heads = o.heads, .k_dim = dim, .v_dim = dim}, o.heads, o.segments);
  b.append(k, b.slice(qkv, 2 * o.hidden, o.hidden), cache);
  return dense(b, w / o.out, b.attend(q, cache, o.heads, 1.0f / std::sqrt(static_cast<float>(dim))), o.hidden,
               o.out_bias);
}

Value encoder_mlp(PlanBuilder& b, Scope w, Value x, const EncoderLayerOptions& o) {
  if (o.gated) return gated_mlp(b, w, x, {.hidden = o.hidden, .width = o.width, .act = o.act, .bias = true});
  const PlanBuilder::Module inside(b, w);
  return dense(b, w / "fc2", b.activate(dense(b, w / "fc1", x, o.width), o.act, false), o.hidden);
}

}  // namespace

Value dense(PlanBuilder& b, Scope w, Value x, int out, bool bias) {
  Matrix m{.sources = {whole(w, out)}, .k = x.cols};
  if (bias) m.biases = {bias_of(w, out)};
  return b.linear(x, std::move(m));
}

Value encoder_layer(PlanBuilder& b, Scope w, Value x, const EncoderLayerOptions& o) {
  const PlanBuilder::Module inside(b, w);
  const auto gated = [&](Value branch, const std::string& gate) {
    return gate.empty() ? branch : b.gate(branch, w / gate);
  };
  x = b.add(x, gated(encoder_attention(b, w / o.attention, norm(b, w / o.norm1, x, o.norm), o), o.gate1));
  return b.add(x, gated(encoder_mlp(b, w / "mlp", norm(b, w / o.norm2, x, o.norm), o), o.gate2));
}

Value patch_embedding(PlanBuilder& b, std::string tensor, std::vector<int64_t> shape, bool bias,
                      std::string bias_tensor) {
  int size = 1;
  for (size_t i = 1; i < shape.size(); ++i) size *= static_cast<int>(shape[i]);
  const auto out = static_cast<int>(shape[0]);
  Matrix m{.sources = {{std::move(tensor), 0, out, std::move(shape)}}, .k = size};
  if (bias) m.biases = {{std::move(bias_tensor), 0, out}};
  return b.linear(b.input(size), std::move(m));
}

}  // namespace weft::blocks
