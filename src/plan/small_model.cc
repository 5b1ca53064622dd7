#include "plan/small_model.h"

#include <cmath>

namespace weft {
namespace {

constexpr float kEps = 1e-6f;
constexpr uint8_t kImage = 1, kSeen = 2;  // of step_inputs.h

class Recorder {
 public:
  explicit Recorder(const SmallModel& m) : m_(m), b_("test") {
    for (int i = 0; i < m.dim / 2; ++i) rope_.inv_freq.push_back(std::pow(100.0f, -2.0f * i / m.dim));
  }

  Plan plan() {
    const Scope root;
    const int tied = m_.tied ? b_.matrix({.sources = {whole(root / "embed", m_.vocab)}, .k = m_.hidden}) : -1;
    Value x = m_.tied ? b_.embed_tied(tied, 1.5f) : b_.embed(root / "embed", m_.vocab, m_.hidden, 1.0f);
    const Value taps = m_.taps ? b_.buffer(2 * m_.hidden) : Value{};
    for (const int layer : {0, 1}) {
      const Scope w = root / ("layer" + std::to_string(layer));
      const bool skipped = m_.skips && layer == 1;
      if (m_.taps && layer == 1) b_.place(x, b_.slice(taps, 0, m_.hidden));
      const Value normed = norm(x, w / "norm_1");
      x = b_.add(x, skipped     ? b_.linear(normed, matrix({whole(w / "in_place", m_.hidden)}, m_.hidden))
                    : m_.latent ? latent(w, normed)
                                : attention(w, normed));
      if (!skipped) x = b_.add(x, mlp(w, norm(x, w / "norm_2")));
      if (m_.cross && layer == 0) cross(root / "cross", x);
    }
    if (m_.taps) b_.place(x, b_.slice(taps, m_.hidden, m_.hidden)), b_.set_taps(taps);
    x = norm(m_.head == HeadKind::reward_steps ? x : b_.select(x), root / "last_norm");
    x = m_.tied ? b_.linear(x, tied) : b_.linear(x, matrix({whole(root / "head", m_.vocab)}, m_.hidden));
    if (m_.soft_cap > 0) x = b_.elementwise(kernels::SoftCap{m_.soft_cap}, x);
    b_.set_output(x, m_.head);
    return b_.take();
  }

 private:
  Value norm(Value x, Scope w) { return b_.norm(x, w, false, false, false, kEps); }

  Matrix matrix(std::vector<TensorRows> sources, int k, Shard shard = Shard::none, int unit = 1) const {
    Matrix m{.sources = std::move(sources), .k = k, .shard = shard, .shard_unit = unit};
    if (m_.biases)
      for (const TensorRows& source : m.sources)
        m.biases.push_back({source.tensor.substr(0, source.tensor.size() - 6) + "bias", 0, source.rows});
    return m;
  }

  Value attention(Scope w, Value x) {
    const int q = m_.heads * m_.dim, kv = m_.kv_heads * m_.dim;
    const Value qkv =
        b_.linear(x, m_.fused ? matrix({whole(w / "qkv", q + 2 * kv)}, m_.hidden)
                              : matrix({whole(w / "q", q), whole(w / "k", kv), whole(w / "v", kv)}, m_.hidden));
    Value queries = b_.slice(qkv, 0, q), keys = b_.slice(qkv, q, kv);
    if (m_.row_norms)
      b_.norm_into(queries, queries, w / "q_norm", false, kEps), b_.norm_into(keys, keys, w / "k_norm", false, kEps);
    HeadsOptions heads{.heads = m_.heads, .dim = m_.dim};
    if (m_.head_norms) heads.norm = kernels::HeadNorm::rms;
    queries = b_.heads(queries, w / "q_head_norm", rope_, heads);
    heads.heads = m_.kv_heads;
    keys = b_.heads(keys, w / "k_head_norm", rope_, heads);
    const CacheRef cache = b_.cache({.kv_heads = m_.kv_heads, .k_dim = m_.dim, .v_dim = m_.dim}, m_.heads);
    b_.append(keys, b_.slice(qkv, q + kv, kv), cache);
    const Value out = b_.attend(queries, cache, m_.heads, 0.3f);
    return b_.linear(out, matrix({whole(w / "o", m_.hidden)}, q, Shard::rows, m_.dim));
  }

  // Changes x in its place.
  void cross(Scope w, Value x) {
    const CacheRef cache = b_.cross_cache(
        {.kind = CacheSpec::Kind::cross, .kv_heads = m_.kv_heads, .k_dim = m_.dim, .v_dim = m_.dim}, m_.heads);
    const int cols = m_.heads * m_.dim;
    b_.begin_images_only();
    const HeadsOptions heads{.heads = m_.heads, .dim = m_.dim, .norm = kernels::HeadNorm::rms};
    const Value q =
        b_.heads(b_.linear(norm(x, w / "norm_1"), matrix({whole(w / "q", cols)}, m_.hidden)), w / "q_norm", {}, heads);
    const Value seen = b_.attend(q, cache, m_.heads, 0.3f);
    const Value out = b_.linear(seen, matrix({whole(w / "o", m_.hidden)}, cols, Shard::rows, m_.dim));
    b_.add_into(x, b_.gate(out, w / "gate_1", false, kImage));
    b_.add_into(x, b_.gate(mlp(w, norm(x, w / "norm_2")), w / "gate_2", false, kSeen));
    b_.end_images_only();
  }

  // Keys of kRank + dim columns that all heads share; `dim` of a head's query are rotated, as many are not.
  Value latent(Scope w, Value x) {
    constexpr int kRank = 32;
    const int row_dim = kRank + m_.dim, q_dim = 2 * m_.dim, q_cols = m_.heads * q_dim;
    const Value both = b_.linear(x, matrix({whole(w / "q", q_cols), whole(w / "kv", row_dim)}, m_.hidden));
    const Value q = b_.slice(both, 0, q_cols), kv = b_.slice(both, q_cols, row_dim), row = b_.buffer(row_dim);
    b_.norm_into(b_.slice(kv, 0, kRank), b_.slice(row, 0, kRank), w / "kv_norm", false, kEps);
    const HeadsOptions one{.heads = 1, .dim = m_.dim}, all{.heads = m_.heads, .dim = m_.dim};
    b_.rotate_into(b_.slice(kv, kRank, m_.dim), m_.dim, b_.slice(row, kRank, m_.dim), m_.dim, rope_, one);
    const CacheRef cache =
        b_.cache({.kind = CacheSpec::Kind::latent, .kv_heads = 1, .k_dim = row_dim, .v_dim = kRank}, m_.heads);
    b_.append_latent(row, cache);
    // Tensor kv_b [heads * 2 * dim, rank]: each head's keys, read across, and its values.
    const std::vector<int64_t> shape{int64_t{m_.heads} * 2 * m_.dim, kRank};
    const std::string tensor = (w / "kv_b").path() + ".weight";
    std::vector<Matrix> keys, values;
    for (int64_t h = 0; h < m_.heads; ++h) {
      keys.push_back({.sources = {{tensor, h * 2 * m_.dim, kRank, shape, true}}, .k = m_.dim});
      values.push_back({.sources = {{tensor, h * 2 * m_.dim + m_.dim, m_.dim, shape}}, .k = kRank});
    }
    const Value query = b_.buffer(m_.heads * row_dim), out = b_.buffer(m_.heads * m_.dim);
    b_.per_head(q, q_dim, query, row_dim, std::move(keys));
    b_.rotate_into(b_.slice(q, m_.dim, q_cols - m_.dim), q_dim, b_.slice(query, kRank, m_.heads * row_dim - kRank),
                   row_dim, rope_, all);
    b_.per_head(b_.attend(query, cache, m_.heads, 0.2f), kRank, out, m_.dim, std::move(values));
    return b_.linear(out, matrix({whole(w / "o", m_.hidden)}, m_.heads * m_.dim, Shard::rows, m_.dim));
  }

  Value mlp(Scope w, Value x) {
    if (m_.mlp >= SmallModel::Mlp::experts) return experts(w, x);
    const bool gated = m_.mlp == SmallModel::Mlp::gated;
    return dense(w, x, m_.width, gated);
  }
  Value dense(Scope w, Value x, int width, bool gated) {
    std::vector<TensorRows> in{whole(w / "gate_up", 2 * width)};
    if (!m_.fused) in = {whole(w / "gate", width), whole(w / "up", width)};
    if (!gated) in = {whole(w / "up", width)};
    const Value both = b_.linear(x, matrix(std::move(in), m_.hidden));
    return b_.linear(b_.activate(both, kernels::Activation::silu, gated),
                     matrix({whole(w / "down", m_.hidden)}, width, Shard::rows));
  }

  Value experts(Scope w, Value x) {
    const bool scaled = m_.mlp == SmallModel::Mlp::experts_of_scaled_rows;
    const Value logits =
        b_.linear(x, {.sources = {whole(w / "router", m_.experts)}, .k = m_.hidden, .keep_float32 = true});
    const Value chosen =
        b_.route(logits, {.kind = kernels::RouteRule::Kind::sigmoid_after, .experts = m_.experts, .chosen = m_.chosen});
    const Value grouped = b_.group_rows(chosen, m_.experts, m_.chosen);
    std::vector<Matrix> first, second;
    for (int e = 0; e < m_.experts; ++e) first.push_back(gates_of(w, e)), second.push_back(down_of(w, e));
    const Value rows = scaled ? b_.scale_rows(x, chosen, m_.chosen) : x;
    Value y = b_.experts(rows, grouped, std::move(first), m_.chosen, !scaled);
    y = b_.activate_slots(y, kernels::Activation::silu, m_.width, m_.chosen);
    y = b_.experts(y, grouped, std::move(second), m_.chosen, false);
    y = b_.combine(y, chosen, m_.experts, m_.hidden, m_.chosen, !scaled);
    return m_.shared_expert ? b_.add(y, dense(w / "shared", x, m_.width, true)) : y;
  }
  // Of one tensor: all experts' in one, as [experts, in, out].
  Matrix gates_of(Scope w, int64_t e) const {
    const Scope own = w / ("expert" + std::to_string(e));
    if (m_.mlp == SmallModel::Mlp::experts)
      return {.sources = {whole(own / "gate", m_.width), whole(own / "up", m_.width)}, .k = m_.hidden};
    return {.sources =
                {{(w / "experts_in").path(), e * m_.hidden, 2 * m_.width, {m_.experts, m_.hidden, 2 * m_.width}, true}},
            .k = m_.hidden};
  }
  Matrix down_of(Scope w, int64_t e) const {
    const Scope own = w / ("expert" + std::to_string(e));
    if (m_.mlp == SmallModel::Mlp::experts) return {.sources = {whole(own / "down", m_.hidden)}, .k = m_.width};
    return {.sources = {{(w / "experts_out").path(), e * m_.width, m_.hidden, {m_.experts, m_.width, m_.hidden}, true}},
            .k = m_.width};
  }

  const SmallModel& m_;
  PlanBuilder b_;
  RopeAngles rope_;
};

}  // namespace

Plan record(const SmallModel& m) { return Recorder(m).plan(); }

}  // namespace weft
