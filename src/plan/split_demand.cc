#include "plan/split_demand.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "kernels/kernels.h"

namespace weft {

namespace {

// Where the k of a matrix may be cut so that packing a part gives the codes and scales of the whole.
int k_unit(const Matrix& m) {
  if (!m.format || !kernels::is_quantized(m.format->form)) return m.shard_unit;
  const kernels::WeightGroups& groups = m.format->groups;
  // One scale for all of k, read from the checkpoint; made from the weights of a share it would be another one.
  if (groups.size >= m.k && groups.scale == kernels::ScaleKind::f32) return m.shard_unit;
  return groups.scale == kernels::ScaleKind::super ? 256 : std::max(groups.size, kernels::kStrip);
}

}  // namespace

Columns::Range heads_of(const Columns& columns, int stride, int dim, int heads) {
  const int first = columns.ranges().front().first, last = columns.ranges().back().last;
  return {first < dim ? 0 : (first - dim) / stride + 1, std::min((last - 1) / stride + 1, heads)};
}

Demand::Demand(const Plan& plan, const RankLayout& layout, int rank)
    : needs(plan.storages.size()), cuts(plan.ops.size()), matrix_outputs(plan.matrices.size()), plan_(plan),
      stage_ranks_(layout.tensor), ranks_(layout.attention_dp ? 1 : layout.tensor), expert_sets_(layout.experts),
      rank_(rank) {}

Status Demand::find() {
  if (expert_sets_ > 0 && stage_ranks_ % expert_sets_ != 0)
    return fail(Code::invalid_argument, "--ep-size ", expert_sets_, " does not divide --tp-size ", stage_ranks_,
                ": every set of ranks has equally many of them")
        .about("ep-size");
  // A group of cached layers has the same heads in all of them. Where they cannot be shared in one layer, all layers
  // keep all; then once more from the start.
  do {
    again_ = false;
    needs.assign(plan_.storages.size(), {});
    matrix_outputs.assign(plan_.matrices.size(), {});
    slot_columns.clear();
    heads = known_heads_;
    seed();
    for (size_t i = plan_.ops.size(); i-- > 0 && !error_ && !again_;)
      std::visit([&](const auto& kind) { visit(kind, plan_.ops[i], i); }, plan_.ops[i].kind);
  } while (again_ && !error_);
  if (error_) return *error_;
  return {};
}

Columns::Range Demand::share(int64_t size) const {
  return {static_cast<int>(size * rank_ / ranks_), static_cast<int>(size * (rank_ + 1) / ranks_)};
}

Columns::Range Demand::vocabulary(int size) const {
  const int each = vocabulary_share(size);
  if (each == size) return {0, size};
  return {rank_ * each, std::min(size, (rank_ + 1) * each)};
}

int Demand::vocabulary_share(int size) const {
  constexpr int kUnit = 16;
  const int each = ((size + ranks_ - 1) / ranks_ + kUnit - 1) / kUnit * kUnit;
  return ranks_ > 1 && plan_.head == HeadKind::lm && each * (ranks_ - 1) < size ? each : size;
}

// Without sets of the user's choice so many that no rank cuts an expert without need.
ExpertCut Demand::expert_cut(int experts) const {
  ExpertCut cut;
  cut.sets = expert_sets_ > 0 ? expert_sets_ : std::gcd(stage_ranks_, kernels::expert_groups(experts));
  cut.places = stage_ranks_ / cut.sets;
  const int each = experts / cut.sets, set = rank_ / cut.places;
  cut.experts = {each * set, each * (set + 1)};
  cut.place = rank_ % cut.places;
  return cut;
}

Columns::Range Demand::kv_heads(CacheRef ref) const {
  const LayerGroup& group = plan_.group(ref);
  const int kv = group.spec.kv_heads;
  const auto found = heads.find({ref.kind, ref.group});
  if (found == heads.end() || group.spec.kind == CacheSpec::Kind::latent) return {0, kv};
  const int per_kv = group.heads / kv;
  return {found->second.first / per_kv, (found->second.last - 1) / per_kv + 1};
}

void Demand::seed() {
  const Value& output = plan_.output;
  if (output.storage >= 0) want(output, vocabulary(output.cols));
  for (const Value& kept : {plan_.taps, plan_.state})
    if (kept.storage >= 0) want_all(kept);
}

void Demand::want(const Value& v, Range columns) {
  needs[v.storage].add({v.first_col + columns.first, v.first_col + columns.last});
}

// An op that computes all of its output from all of its inputs.
void Demand::whole(const Op& op) {
  if (!is_read(op)) return;
  if (op.out) want_all(*op.out);
  for (const Value& in : op.in) want_all(in);
}

// An op on elements.
void Demand::same_columns(const Op& op) {
  const Columns columns = wanted(*op.out);
  if (columns.ranges().size() > 1) return whole(op);
  for (const Value& in : op.in)
    for (const Range& r : columns.ranges()) want(in, r);
}

template <class... Facts>
void Demand::refuse(const char* option, const Facts&... facts) {
  if (!error_) error_ = fail(Code::invalid_argument, facts...).about(option);
}

void Demand::visit(const EmbedOp& o, const Op& op, size_t) {
  if (!is_read(op)) return;
  want_all(*op.out);
  if (o.matrix < 0) return;
  const Range own = vocabulary(static_cast<int>(plan_.matrices[o.matrix].out()));
  matrix_outputs[o.matrix].add(own);
}

void Demand::visit(const LinearOp& o, const Op& op, size_t i) {
  if (!is_read(op)) return;
  const Matrix& m = plan_.matrices[o.matrix];
  if (m.shard != Shard::rows || ranks_ == 1) {
    cuts[i] = Cut::outputs;
    matrix_outputs[o.matrix] = wanted(*op.out);
    return want_all(op.in[0]);
  }
  if (m.k % (ranks_ * m.shard_unit) != 0)
    return m.shard_unit > 1 ? refuse("tp-size", "the ", m.k / m.shard_unit, " attention heads of ", op.path,
                                     " cannot be shared by ", ranks_, " ranks: their number does not divide")
                            : refuse("tp-size", "the ", m.k, " columns of ", op.path, " cannot be shared by ", ranks_,
                                     " ranks: their number does not divide");
  const bool by_k = m.shards() % ranks_ == 0 && (m.k / ranks_) % k_unit(m) == 0;
  if (!by_k && m.out() % ranks_ != 0)
    return refuse("tp-size", "the ", m.out(), " outputs of ", op.path, " cannot be shared by ", ranks_, " ranks");
  cuts[i] = by_k ? Cut::k : Cut::gathered;
  want_all(*op.out);
  want(op.in[0], share(m.k));
  matrix_outputs[o.matrix].add(by_k ? Range{0, static_cast<int>(m.out())} : share(m.out()));
}

void Demand::visit(const HeadsOp& o, const Op& op, size_t) {
  const Columns columns = wanted(*op.out);
  if (columns.empty()) return;
  const Range own = heads_of(columns, o.out_stride, o.dim, o.heads);
  want(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + o.dim});
  want(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + o.dim});
  if (op.in.size() > 1) want_all(op.in[1]);
}

void Demand::visit(const PerHeadOp& o, const Op& op, size_t) {
  const Columns columns = wanted(*op.out);
  if (columns.empty()) return;
  const Matrix& m = plan_.matrices[o.matrices.front()];
  const Range own = heads_of(columns, o.out_stride, static_cast<int>(m.out()), static_cast<int>(o.matrices.size()));
  want(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + static_cast<int>(m.out())});
  want(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + m.k});
  for (int h = own.first; h < own.last; ++h) matrix_outputs[o.matrices[h]].add({0, static_cast<int>(m.out())});
}

void Demand::visit(const AttendOp& o, const Op& op, size_t) {
  const Columns columns = wanted(*op.out);
  if (columns.empty()) return;
  const LayerGroup& group = plan_.group(o.cache);
  const std::pair key{o.cache.kind, o.cache.group};
  Range own = heads_of(columns, group.spec.v_dim, group.spec.v_dim, o.heads);
  if (whole_groups_.contains(key)) own = {0, o.heads};
  const auto [known, fresh] = heads.try_emplace(key, own);
  if (!fresh && known->second != own) {
    whole_groups_.insert(key), again_ = true;
    return;
  }
  const int per_kv = o.heads / group.spec.kv_heads;
  const bool one_kv = own.first / per_kv == (own.last - 1) / per_kv;
  if (!one_kv && (own.first % per_kv != 0 || own.last % per_kv != 0))
    return refuse("tp-size", "the ", o.heads, " query heads over ", group.spec.kv_heads,
                  " heads of keys and values of ", op.path, " cannot be shared by ", ranks_, " ranks");
  want(*op.out, {own.first * group.spec.v_dim, own.last * group.spec.v_dim});
  want(op.in[0], {own.first * group.spec.k_dim, own.last * group.spec.k_dim});
}

void Demand::visit(const AppendOp& o, const Op& op, size_t) {
  const CacheSpec& spec = plan_.group(o.cache).spec;
  const Range own = kv_heads(o.cache);
  if (spec.kind == CacheSpec::Kind::latent) return want_all(op.in[0]);
  want(op.in[0], {own.first * spec.k_dim, own.last * spec.k_dim});
  want(op.in[1], {own.first * spec.v_dim, own.last * spec.v_dim});
}

void Demand::visit(const ActivateOp& o, const Op& op, size_t) {
  if (const auto slot = slot_columns.find(op.out->storage); slot != slot_columns.end()) {
    const Range own = slot->second.ranges().front();
    Columns& columns = slot_columns[op.in[0].storage];
    columns.add(own);
    if (o.gated) columns.add({o.cols + own.first, o.cols + own.last});
    return whole(op);
  }
  const Columns columns = wanted(*op.out);
  if (columns.ranges().size() != 1 || o.slots > 1) return whole(op);
  const Range own = columns.ranges().front();
  want(op.in[0], own);
  if (o.gated) want(op.in[0], {o.cols + own.first, o.cols + own.last});
}

void Demand::visit(const ExpertsOp& o, const Op& op, size_t) {
  if (!is_read(op)) return;
  whole(op);
  const ExpertCut cut = expert_cut(o.experts);
  const int groups = kernels::expert_groups(o.experts);
  if (groups % cut.sets != 0)
    return refuse("ep-size", "the ", o.experts, " experts of ", op.path, " cannot be shared by ", cut.sets,
                  cut.places > 1 ? " sets of ranks" : " ranks", ": they are summed in ", groups,
                  groups == 1 ? " group" : " groups of equal size");
  cut_experts(o, op, cut);
}

// The rank's outputs of its experts' matrices: those that are read behind them.
void Demand::cut_experts(const ExpertsOp& o, const Op& op, const ExpertCut& cut) {
  Columns outputs;
  if (cut.places == 1) {
    outputs.add({0, static_cast<int>(plan_.matrices[o.matrices.front()].out())});
  } else {
    outputs = slot_columns[op.out->storage];
    WEFT_CHECK(!outputs.empty()) << op.path << ": nothing that is cut with the experts reads them";
    // What all experts of a token read is whole on every rank.
    if (!o.same_input) slot_columns[op.in[0].storage].add(slot_share(plan_.matrices[o.matrices.front()].k, cut, op));
  }
  for (int e = cut.experts.first; e < cut.experts.last && !error_; ++e)
    matrix_outputs[o.matrices[e - o.first_expert]] = outputs;
}

void Demand::visit(const ArrangeOp& o, const Op& op, size_t) {
  if (o.slots > 1 && slot_columns.contains(op.out->storage))
    return refuse("tp-size", "the inputs of the experts of ", op.path,
                  " are rounded as wholes (--activation-quantization checkpoint), and ranks would share them");
  whole(op);
}

void Demand::visit(const CombineOp& o, const Op& op, size_t) {
  if (!is_read(op)) return;
  whole(op);
  const ExpertCut cut = expert_cut(o.experts);
  if (cut.places > 1) slot_columns[op.in[0].storage].add(slot_share(op.out->cols, cut, op));
}

Columns::Range Demand::slot_share(int cols, const ExpertCut& cut, const Op& op) {
  if (cols % cut.places != 0)
    refuse(expert_sets_ > 0 ? "ep-size" : "tp-size", "the ", cols, " columns of the experts of ", op.path,
           " cannot be shared by the ", cut.places, " ranks of a set: their number does not divide (", stage_ranks_,
           " ranks in ", cut.sets, cut.sets == 1 ? " set)" : " sets)");
  return cut.columns(cols);
}

}  // namespace weft
