// BERT as a classifier: an encoder whose tokens all see each other, with learned positions and norms behind the
// residual additions; the classes follow from the first token.
#include <cmath>

#include "models/models.h"

namespace weft::models {

using namespace blocks;

namespace {

Matrix dense(Scope w, int out, int in) {
  return {.sources = {whole(w, out)}, .biases = {{w.path() + ".bias", 0, out}}, .k = in};
}
// One whose input ranks share, in whole multiples of `unit`.
Matrix dense_of_parts(Scope w, int out, int in, int unit) {
  Matrix m = dense(w, out, in);
  m.shard = Shard::rows, m.shard_unit = unit;
  return m;
}

Value bert_attention(PlanBuilder& b, Scope w, Value x, const AttentionOptions& o) {
  const PlanBuilder::Module inside(b, w);
  Matrix in{.k = o.hidden};
  for (const char* name : {"query", "key", "value"}) {
    in.sources.push_back(whole(w / "self" / name, o.hidden));
    in.biases.push_back({(w / "self" / name).path() + ".bias", 0, o.hidden});
  }
  const Value qkv = b.linear(x, std::move(in));
  const CacheRef cache = b.local_cache({.kv_heads = o.heads, .k_dim = o.head_dim, .v_dim = o.head_dim}, o.heads);
  b.append(b.slice(qkv, o.hidden, o.hidden), b.slice(qkv, 2 * o.hidden, o.hidden), cache);
  const Value out =
      b.attend(b.slice(qkv, 0, o.hidden), cache, o.heads, 1.0f / std::sqrt(static_cast<float>(o.head_dim)));
  return b.linear(out, dense_of_parts(w / "output" / "dense", o.hidden, o.hidden, o.head_dim));
}

Value bert_embed(PlanBuilder& b, Scope root, const DecoderRecipe& r, int positions, int types) {
  const Scope w = root / "bert" / "embeddings";
  const PlanBuilder::Module inside(b, w);
  Value x = b.add(b.embed(w / "word_embeddings", r.vocab, r.hidden, 1.0f),
                  b.embed_by(IdSource::token_types, w / "token_type_embeddings", types, r.hidden));
  x = b.add(x, b.embed_by(IdSource::positions, w / "position_embeddings", positions, r.hidden));
  return norm(b, w / "LayerNorm", x, r.norm);
}

}  // namespace

DecoderRecipe bert_classifier(const HfConfig& c) {
  DecoderRecipe r;
  r.hidden = c.count("hidden_size"), r.layers = c.count("num_hidden_layers"), r.vocab = c.count("vocab_size");
  r.body = "bert.encoder", r.layer_list = "layer";
  r.norm = {NormKind::layer, static_cast<float>(c.positive("layer_norm_eps")), true};
  c.choice("position_embedding_type", "absolute", {"absolute"});
  const AttentionOptions a{.hidden = r.hidden, .heads = c.count("num_attention_heads"), .head_dim = c.head_dim()};
  if (a.heads * a.head_dim != a.hidden) c.reject("head_dim", "but must be hidden_size / num_attention_heads");
  const int width = c.count("intermediate_size"), positions = c.count("max_position_embeddings"),
            types = c.count("type_vocab_size");
  const kernels::Activation act = activation(c);
  // Without the checkpoint at hand (dummy weights), as transformers counts: id2label, else two.
  const Json* names = c.value("id2label");
  const int stated = c.has("num_labels") ? c.count("num_labels")
                     : names && names->is_object() && !names->members().empty()
                         ? static_cast<int>(names->members().size())
                         : 2;
  const int labels = c.tensor_rows("classifier.weight", stated);

  r.embed = [positions, types](PlanBuilder& b, Scope root, const DecoderRecipe& own) {
    return bert_embed(b, root, own, positions, types);
  };
  r.layer = [a, width, act](PlanBuilder& b, Scope w, int, Value x, const DecoderRecipe& own) {
    x = norm(b, w / "attention" / "output" / "LayerNorm", b.add(x, bert_attention(b, w / "attention", x, a)), own.norm);
    const Value h = b.activate(b.linear(x, dense(w / "intermediate" / "dense", width, own.hidden)), act, false);
    return norm(b, w / "output" / "LayerNorm",
                b.add(x, b.linear(h, dense_of_parts(w / "output" / "dense", own.hidden, width, 1))), own.norm);
  };
  r.head = [labels](PlanBuilder& b, Scope root, Value x, const DecoderRecipe& own) {
    x = b.activate(b.linear(b.select(x), dense(root / "bert" / "pooler" / "dense", own.hidden, own.hidden)),
                   kernels::Activation::tanh, false);
    b.set_output(b.linear(x, dense(root / "classifier", labels, own.hidden)), HeadKind::classify_first);
  };
  return r;
}

}  // namespace weft::models
