// Multi-head latent attention, see blocks.h.
#include "blocks/blocks.h"

namespace weft::blocks {
namespace {

// kv_b_proj's rows are [nope_dim of the key | v_dim of the value] per head, each of kv_rank inputs.
std::vector<int64_t> kv_b_shape(const LatentAttentionOptions& o) {
  return {int64_t{o.heads} * (o.nope_dim + o.v_dim), o.kv_rank};
}

// Takes a head's query to the latent space: [kv_rank, nope_dim], the transpose of the key rows.
Matrix key_half(Scope w, int head, const LatentAttentionOptions& o) {
  if (o.split_kv_b)
    return {.sources = {{(w / "k_b_proj").path() + ".weight",
                         int64_t{head} * o.kv_rank,
                         o.kv_rank,
                         {o.heads, o.kv_rank, o.nope_dim}}},
            .k = o.nope_dim};
  const int64_t row = int64_t{head} * (o.nope_dim + o.v_dim);
  return {.sources = {{(w / "kv_b_proj").path() + ".weight", row, o.kv_rank, kv_b_shape(o), true}}, .k = o.nope_dim};
}

// Takes a head's latent output to its values: [v_dim, kv_rank].
Matrix value_half(Scope w, int head, const LatentAttentionOptions& o) {
  if (o.split_kv_b)
    return {.sources = {{(w / "v_b_proj").path() + ".weight",
                         int64_t{head} * o.v_dim,
                         o.v_dim,
                         {o.heads, o.v_dim, o.kv_rank}}},
            .k = o.kv_rank};
  const int64_t row = int64_t{head} * (o.nope_dim + o.v_dim) + o.nope_dim;
  return {.sources = {{(w / "kv_b_proj").path() + ".weight", row, o.v_dim, kv_b_shape(o)}}, .k = o.kv_rank};
}

}  // namespace

Value latent_attention(PlanBuilder& b, Scope w, Value x, const LatentAttentionOptions& o) {
  const PlanBuilder::Module inside(b, w);
  const int q_dim = o.nope_dim + o.rope_dim, row_dim = o.kv_rank + o.rope_dim, q_cols = o.heads * q_dim;
  const auto bias = [&](Scope scope, int rows) { return TensorRows{o.bias ? scope.path() + ".bias" : "", 0, rows}; };

  // One product for the query's first half (or the whole query) and the key/value row.
  const Scope q_in = o.q_rank > 0 ? w / "q_a_proj" : w / "q_proj", kv_in = w / "kv_a_proj_with_mqa";
  const int q_in_cols = o.q_rank > 0 ? o.q_rank : q_cols;
  Matrix in{.sources = {whole(q_in, q_in_cols), whole(kv_in, row_dim)}, .k = o.hidden};
  if (o.bias) in.biases = {o.q_rank > 0 ? bias(q_in, q_in_cols) : TensorRows{"", 0, q_in_cols}, bias(kv_in, row_dim)};
  const Value both = b.linear(x, std::move(in)), kv = b.slice(both, q_in_cols, row_dim);
  Value q = b.slice(both, 0, q_in_cols);
  if (o.q_rank > 0)
    q = b.linear(b.norm(q, w / "q_a_layernorm", false, false, false, o.low_rank_eps),
                 {.sources = {whole(w / "q_b_proj", q_cols)}, .k = o.q_rank});

  const HeadsOptions one{.heads = 1, .dim = o.rope_dim, .interleaved = o.rope_interleaved};
  HeadsOptions all = one;
  all.heads = o.heads;
  const Value row = b.buffer(row_dim);
  b.norm_into(b.slice(kv, 0, o.kv_rank), b.slice(row, 0, o.kv_rank), w / "kv_a_layernorm", false, o.low_rank_eps);
  b.rotate_into(b.slice(kv, o.kv_rank, o.rope_dim), o.rope_dim, b.slice(row, o.kv_rank, o.rope_dim), o.rope_dim, o.rope,
                one);
  const CacheRef cache =
      b.cache({.kind = CacheSpec::Kind::latent, .kv_heads = 1, .k_dim = row_dim, .v_dim = o.kv_rank}, o.heads);
  b.append_latent(row, cache);

  std::vector<Matrix> keys, values;
  for (int h = 0; h < o.heads; ++h) keys.push_back(key_half(w, h, o)), values.push_back(value_half(w, h, o));
  const Value query = b.buffer(o.heads * row_dim);
  b.per_head(q, q_dim, query, row_dim, std::move(keys));
  b.rotate_into(b.slice(q, o.nope_dim, q_cols - o.nope_dim), q_dim,
                b.slice(query, o.kv_rank, o.heads * row_dim - o.kv_rank), row_dim, o.rope, all);
  const Value out = b.buffer(o.heads * o.v_dim);
  b.per_head(b.attend(query, cache, o.heads, o.scale), o.kv_rank, out, o.v_dim, std::move(values));

  Matrix project{
      .sources = {whole(w / "o_proj", o.hidden)}, .k = o.heads * o.v_dim, .shard = Shard::rows, .shard_unit = o.v_dim};
  if (o.bias) project.biases = {bias(w / "o_proj", o.hidden)};
  return b.linear(out, std::move(project));
}

}  // namespace weft::blocks
