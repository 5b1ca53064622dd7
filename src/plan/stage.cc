#include "plan/stage.h"

#include <algorithm>
#include <limits>
#include <set>

namespace weft {

namespace {

// Calls visit(index) for every matrix of the op.
template <class AnyOp, class Visit>
void each_matrix(AnyOp& op, Visit visit) {
  std::visit(
      [&](auto& kind) {
        if constexpr (requires { kind.matrices; })
          for (auto& matrix : kind.matrices) visit(matrix);
        else if constexpr (requires { kind.matrix; })
          if (kind.matrix >= 0) visit(kind.matrix);
      },
      op.kind);
}

template <class AnyOp, class Visit>
void each_vector(AnyOp& op, Visit visit) {
  std::visit(
      [&](auto& kind) {
        const auto one = [&](auto& index) {
          if (index >= 0) visit(index);
        };
        if constexpr (requires { kind.weight; }) one(kind.weight);
        if constexpr (requires { kind.bias; }) one(kind.bias);
        if constexpr (requires { kind.inv_freq; }) one(kind.inv_freq);
        if constexpr (requires { kind.norm_weight; }) one(kind.norm_weight);
        if constexpr (requires { kind.order; }) one(kind.order);
        if constexpr (requires { kind.factors; }) one(kind.factors);
        if constexpr (requires {
                        kind.gate;
                        requires std::is_same_v<std::decay_t<decltype(kind.gate)>, int>;
                      })
          one(kind.gate);
      },
      op.kind);
}

template <class AnyOp, class Visit>
void each_table(AnyOp& op, Visit visit) {
  if (auto* embed = std::get_if<EmbedOp>(&op.kind); embed && embed->table >= 0) visit(embed->table);
}

double weight_bytes(const Plan& plan, size_t first, size_t last) {
  std::set<int> matrices;
  for (size_t i = first; i < last; ++i) each_matrix(plan.ops[i], [&](int m) { matrices.insert(m); });
  double bytes = 0;
  for (const int m : matrices) bytes += static_cast<double>(plan.matrices[m].bytes(kernels::WeightForm::bf16));
  return bytes;
}

// First ops of the stages, and the number of ops: the cut between layers whose largest stage is the smallest.
std::vector<size_t> find_cuts(const Plan& plan, int stages) {
  const std::vector<size_t>& starts = plan.layer_starts;
  const size_t layers = starts.size();
  std::vector<double> bytes(layers);  // of each layer, with what is in front of the first and behind the last
  for (size_t l = 0; l < layers; ++l)
    bytes[l] = weight_bytes(plan, l == 0 ? 0 : starts[l], l + 1 < layers ? starts[l + 1] : plan.ops.size());
  constexpr double kNever = std::numeric_limits<double>::infinity();
  // most[s][l]: the largest of s + 1 stages over the first l layers; from[s][l]: where the last of them begins.
  std::vector most(stages, std::vector<double>(layers + 1, kNever));
  std::vector from(stages, std::vector<size_t>(layers + 1));
  double sum = 0;
  for (size_t l = 1; l <= layers; ++l) most[0][l] = sum += bytes[l - 1];
  for (int s = 1; s < stages; ++s)
    for (size_t l = static_cast<size_t>(s) + 1; l <= layers; ++l) {
      double own = 0;
      for (size_t begin = l - 1; begin >= static_cast<size_t>(s); --begin) {
        own += bytes[begin];
        const double worst = std::max(own, most[s - 1][begin]);
        if (worst < most[s][l]) most[s][l] = worst, from[s][l] = begin;
      }
    }
  std::vector<size_t> cuts{plan.ops.size()};
  size_t end = layers;
  for (int s = stages - 1; s > 0; --s) end = from[s][end], cuts.push_back(starts[end]);
  cuts.push_back(0);
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

// What ops from `cut` on read, or what is kept, of what ops before it have written.
class Crossing {
 public:
  Crossing(const Plan& plan, size_t cut) : plan_(plan), written_(plan.storages.size()), angles_(plan.storages.size()) {
    std::vector<bool> read(plan.storages.size());
    for (size_t i = 0; i < plan.ops.size(); ++i) {
      const Op& op = plan.ops[i];
      if (i < cut && op.out) {
        written_[op.out->storage] = true;
        if (std::holds_alternative<RopeAnglesOp>(op.kind)) angles_[op.out->storage] = true;
      }
      if (i < cut) continue;
      for (const Value& in : op.in) read[in.storage] = true;
    }
    for (const Value& kept : plan.results()) read[kept.storage] = true;
    for (size_t s = 0; s < read.size(); ++s) crosses_.push_back(read[s] && written_[s]);
  }
  bool is_sent(size_t storage) const { return crosses_[storage] && !angles_[storage]; }
  bool is_angles(size_t storage) const { return crosses_[storage] && angles_[storage]; }
  Value value(size_t s) const { return {static_cast<int>(s), 0, plan_.storages[s].cols, plan_.storages[s].rows}; }

 private:
  const Plan& plan_;
  std::vector<bool> written_, angles_, crosses_;
};

// The stage's layers of each group of the cache; layers count from 0 again.
void count_layers(Plan& stage, const Plan& whole) {
  const auto group_of = [&](CacheRef ref) -> LayerGroup& { return const_cast<LayerGroup&>(stage.group(ref)); };
  for (const CacheRef ref : whole.caches()) {
    if (ref.kind == CacheRef::Kind::local) continue;  // all layers take turns in one place
    int first = whole.group(ref).layers, last = -1;
    for (const Op& op : stage.ops)
      if (const auto* attend = std::get_if<AttendOp>(&op.kind); attend && attend->cache.same_group(ref))
        first = std::min(first, attend->cache.index), last = std::max(last, attend->cache.index);
    group_of(ref).first_layer = last < 0 ? 0 : first;
    group_of(ref).layers = last < 0 ? 0 : last - first + 1;
  }
  const auto shift = [&](CacheRef& ref) {
    if (ref.kind != CacheRef::Kind::local) ref.index -= stage.group(ref).first_layer;
  };
  for (Op& op : stage.ops) {
    if (auto* append = std::get_if<AppendOp>(&op.kind)) shift(append->cache);
    if (auto* attend = std::get_if<AttendOp>(&op.kind)) shift(attend->cache);
  }
}

}  // namespace

Result<Plan> cut_stage(const Plan& whole, int stage, int stages) {
  if (whole.layer_starts.size() < static_cast<size_t>(stages))
    return fail(Code::invalid_argument, "the model's ", whole.layer_starts.size(), " layers cannot be cut into ",
                stages, " stages")
        .about("pp-size");
  const std::vector<size_t> cuts = find_cuts(whole, stages);
  const size_t begin = cuts[stage], end = cuts[stage + 1];
  Plan plan = whole;
  plan.ops.clear(), plan.layer_starts.clear();
  const Crossing before(whole, begin), behind(whole, end);
  if (stage > 0)
    for (size_t s = 0; s < whole.storages.size(); ++s)
      if (before.is_sent(s)) plan.ops.push_back({ReceiveOp{}, {}, before.value(s), whole.ops[begin].path});
  for (size_t i = 0; i < begin; ++i)
    if (const auto& out = whole.ops[i].out; out && before.is_angles(static_cast<size_t>(out->storage)))
      plan.ops.push_back(whole.ops[i]);
  plan.ops.insert(plan.ops.end(), whole.ops.begin() + static_cast<ptrdiff_t>(begin),
                  whole.ops.begin() + static_cast<ptrdiff_t>(end));
  if (stage + 1 < stages) {
    for (size_t s = 0; s < whole.storages.size(); ++s)
      if (behind.is_sent(s)) {
        plan.ops.push_back({SendOp{}, {behind.value(s)}, std::nullopt, whole.ops[end].path});
        plan.storages[s].shared = true;
      }
    plan.output.storage = plan.taps.storage = plan.state.storage = -1;
  }
  count_layers(plan, whole);
  drop_unread_weights(plan, whole, stage + 1 == stages && whole.taps.storage >= 0);
  return plan;
}

Plan without_ops(Plan share) {
  const Plan whole = share;
  share.ops.clear();
  share.output.storage = share.taps.storage = share.state.storage = -1;
  for (LayerGroup& group : share.groups) group.layers = 0;
  drop_unread_weights(share, whole);
  return share;
}

void drop_unread_weights(Plan& share, const Plan& whole, bool keep_tables) {
  // Leaves the entries of `list` that no op of the whole plan reads, or that one of the share does.
  const auto keep_read = [&](auto& list, const auto& each, const auto& dropped) {
    std::vector<bool> read(list.size()), read_by_all(list.size());
    for (const Op& op : share.ops) each(op, [&](int index) { read[index] = true; });
    for (const Op& op : whole.ops)
      each(op, [&](int index) {
        if (static_cast<size_t>(index) < read_by_all.size()) read_by_all[index] = true;
      });
    std::vector<int> place(list.size(), -1);
    std::remove_reference_t<decltype(list)> kept;
    for (size_t i = 0; i < list.size(); ++i) {
      if (read[i] || !read_by_all[i]) place[i] = static_cast<int>(kept.size()), kept.push_back(std::move(list[i]));
      else dropped(list[i], i);
    }
    list = std::move(kept);
    for (Op& op : share.ops) each(op, [&](int& index) { index = place[index]; });
    return place;
  };
  const auto ignore = [&](const TensorRows& rows) {
    if (rows.borrowed == Borrowed::no && !rows.tensor.empty()) share.unused.push_back(rows.tensor);
  };
  keep_read(
      share.matrices, [](auto& op, auto visit) { each_matrix(op, visit); },
      [&](const Matrix& matrix, size_t) {
        for (const TensorRows& source : matrix.sources) ignore(source);
        for (const TensorRows& bias : matrix.biases) ignore(bias);
      });
  keep_read(
      share.vectors, [](auto& op, auto visit) { each_vector(op, visit); },
      [&](const VectorWeight& vector, size_t) {
        for (const std::string& tensor : {vector.tensor, vector.divided_by})
          if (!tensor.empty()) share.unused.push_back(tensor);
      });
  if (keep_tables) return;
  const std::vector<int> place = keep_read(
      share.tables, [](auto& op, auto visit) { each_table(op, visit); },
      [&](const TensorRows& table, size_t) { ignore(table); });
  std::vector<int> cols;
  for (size_t t = 0; t < place.size(); ++t)
    if (place[t] >= 0) cols.push_back(share.table_cols[t]);
  share.table_cols = std::move(cols);
}

}  // namespace weft
