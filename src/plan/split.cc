#include "plan/split.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/check.h"
#include "kernels/kernels.h"
#include "plan/split_demand.h"
#include "plan/stage.h"

namespace weft {

namespace {

using Range = Columns::Range;

// Second pass: the rank's ops over the columns that it has.
class Share {
 public:
  Share(const Plan& whole, const Demand& demand) : whole_(whole), demand_(demand), plan_(whole) {
    plan_.ops.clear();
    for (size_t s = 0; s < plan_.storages.size(); ++s) plan_.storages[s].cols = demand.needs[s].size();
    for (size_t g = 0; g < plan_.groups.size(); ++g) share_group({CacheRef::Kind::paged, static_cast<int>(g)});
    for (size_t g = 0; g < plan_.local_groups.size(); ++g) share_group({CacheRef::Kind::local, static_cast<int>(g)});
    if (plan_.cross_group) share_group({CacheRef::Kind::cross});
    if (demand.gathers_rows()) find_gathered();
  }

  Plan make() {
    for (size_t i = 0; i < whole_.ops.size(); ++i) {
      const Op& op = whole_.ops[i];
      if (op.out && demand_.wanted(*op.out).empty()) continue;
      std::visit([&](const auto& kind) { rebuild(kind, op, i); }, op.kind);
    }
    const int all = whole_.output.cols;
    const Range own = demand_.vocabulary(all);
    if (own.size() < all) plan_.output_part = {own.first, demand_.vocabulary_share(all), all};
    if (plan_.output.storage >= 0) plan_.output = mapped(whole_.output, own);
    for (Value* kept : {&plan_.taps, &plan_.state})
      if (kept->storage >= 0) *kept = mapped(*kept);
    drop_unread_weights(plan_, whole_);
    check_partial_sums(plan_);
    return std::move(plan_);
  }

 private:
  void share_group(CacheRef ref) {
    const auto found = demand_.heads.find({ref.kind, ref.group});
    if (found == demand_.heads.end()) return;
    LayerGroup& group = ref.kind == CacheRef::Kind::paged   ? plan_.groups[ref.group]
                        : ref.kind == CacheRef::Kind::local ? plan_.local_groups[ref.group]
                                                            : *plan_.cross_group;
    const Range kv = demand_.kv_heads(ref);
    group.first_kv_head = kv.first;
    group.heads = found->second.size();
    group.spec.kv_heads = kv.size();
  }

  // Attention data parallelism: everything between the router's choice and the sum of the experts has the rows of all.
  void find_gathered() {
    for (const Op& op : whole_.ops) {
      const bool experts = std::holds_alternative<ExpertsOp>(op.kind) || std::holds_alternative<GroupRowsOp>(op.kind);
      const bool inside =
          std::holds_alternative<ActivateOp>(op.kind) && plan_.storages[op.in[0].storage].rows == Rows::gathered;
      if (experts || inside) plan_.storages[op.out->storage].rows = Rows::gathered;
    }
  }
  // The same for the rows of all ranks.
  Value gathered(Value v, const Op& like) {
    if (!demand_.gathers_rows() || v.rows == Rows::gathered) return v;
    const auto known = gathered_.find(v.storage);
    if (known != gathered_.end()) return known->second;
    WEFT_CHECK(v.cols == plan_.storages[v.storage].cols) << like.path << ": a part of a value cannot be gathered";
    plan_.storages[v.storage].shared = true;
    const Value all = fresh(v.cols, Rows::gathered);
    push(like, GatherRowsOp{}, {v}, all);
    return gathered_.emplace(v.storage, all).first->second;
  }

  // What the rank has of a value.
  Value mapped(const Value& v) const {
    const Columns& has = demand_.needs[v.storage];
    return {v.storage, has.place_of(v.first_col), demand_.wanted(v).size(), plan_.storages[v.storage].rows};
  }
  // The part of it from `first` on.
  Value mapped(const Value& v, Range columns) const {
    const Columns& has = demand_.needs[v.storage];
    const int place = has.place_of(v.first_col + columns.first);
    WEFT_CHECK(has.place_of(v.first_col + columns.last) - place == columns.size())
        << "a rank lacks columns that it reads";
    return {v.storage, place, columns.size(), plan_.storages[v.storage].rows};
  }
  Value fresh(int cols, Rows rows) {
    plan_.storages.push_back({cols, rows});
    return {static_cast<int>(plan_.storages.size()) - 1, 0, cols, rows};
  }
  Value fresh_part(int cols, Rows rows) {
    const Value part = fresh(cols, rows);
    plan_.storages[part.storage].shared = true;
    return part;
  }
  void push(const Op& like, OpKind kind, std::vector<Value> in, std::optional<Value> out) {
    plan_.ops.push_back({std::move(kind), std::move(in), out, like.path, like.images_only, like.pass});
  }
  // The whole value of which the rank has `part`, all of a storage.
  Value gather(Value part, int cols, const Op& like) {
    plan_.storages[part.storage].shared = true;
    const Value all = fresh(cols, part.rows);
    push(like, AllGatherOp{}, {part}, all);
    return all;
  }

  template <class Kind>
  void rebuild(const Kind& kind, const Op& op, size_t) {
    std::vector<Value> in;
    for (const Value& v : op.in) in.push_back(mapped(v));
    push(op, kind, std::move(in), op.out ? std::optional(mapped(*op.out)) : std::nullopt);
  }

  // An op on elements, or the activation of some columns: its input may have more columns than it reads.
  template <class Kind>
  void rebuild_columns(Kind kind, const Op& op, Range columns) {
    std::vector<Value> in;
    for (const Value& v : op.in) in.push_back(mapped(v, columns));
    push(op, std::move(kind), std::move(in), mapped(*op.out, columns));
  }
  Range only_range(const Op& op) const {
    const Columns columns = demand_.wanted(*op.out);
    return columns.ranges().size() == 1 ? columns.ranges().front() : Range{0, op.out->cols};
  }
  template <kernels::IsElementwise F>
  void rebuild(const F& f, const Op& op, size_t) {
    rebuild_columns(f, op, only_range(op));
  }
  void rebuild(const GateOp& o, const Op& op, size_t) { rebuild_columns(o, op, only_range(op)); }
  void rebuild(const SelectOp& o, const Op& op, size_t) { rebuild_columns(o, op, only_range(op)); }
  void rebuild(const ActivateOp& o, const Op& op, size_t) {
    if (slot_parts_.contains(op.in[0].storage)) return rebuild_slots(o, op);
    const Range own = only_range(op);
    if (own.size() == op.out->cols) return push(op, o, {mapped(op.in[0])}, mapped(*op.out));
    ActivateOp part = o;
    part.cols = own.size();
    if (!o.gated) return rebuild_columns(part, op, own);
    Value in = mapped(op.in[0], own);
    WEFT_CHECK(mapped(op.in[0], {o.cols + own.first, o.cols + own.last}).first_col == in.first_col + own.size())
        << op.path << ": gates and what they gate are not side by side";
    in.cols = 2 * own.size();
    push(op, part, {in}, mapped(*op.out, own));
  }

  void rebuild(const EmbedOp& o, const Op& op, size_t) {
    const Value out = mapped(*op.out);
    if (o.matrix < 0) return push(op, o, {}, out);
    const Range own = demand_.matrix_outputs[o.matrix].ranges().front();
    if (own.size() == whole_.matrices[o.matrix].out()) return push(op, o, {}, out);
    cut_outputs(o.matrix);
    EmbedOp part = o;
    part.first_id = own.first, part.id_count = own.size();
    const Value rows = fresh_part(out.cols, out.rows);
    push(op, part, {}, rows);
    push(op, PickRowsOp{}, {rows}, out);
  }

  void rebuild(const LinearOp& o, const Op& op, size_t i) {
    const Value out = mapped(*op.out);
    switch (demand_.cuts[i]) {
      case Cut::outputs: cut_outputs(o.matrix); return push(op, o, {mapped(op.in[0])}, out);
      case Cut::k: {
        Matrix& m = plan_.matrices[o.matrix];
        const Range own = demand_.share(m.k);
        m.shard_count = m.shards() * own.size() / m.k;
        m.tensor_k = m.k, m.first_k = own.first, m.k = own.size();
        LinearOp part = o;
        part.partial = true;
        const Value sum = fresh_part(out.cols, out.rows);
        push(op, part, {mapped(op.in[0], own)}, sum);
        return push(op, AllReduceOp{m.biases.empty() ? -1 : o.matrix}, {sum}, out);
      }
      case Cut::gathered: {
        const int k = whole_.matrices[o.matrix].k;
        Value x = mapped(op.in[0], demand_.share(k));
        if (x.cols != plan_.storages[x.storage].cols) {  // other ops have put more there
          const Value copy = fresh_part(x.cols, x.rows);
          push(op, PlaceOp{1}, {x}, copy);
          x = copy;
        }
        x = gather(x, k, op);
        cut_outputs(o.matrix);
        const Value part = fresh_part(static_cast<int>(plan_.matrices[o.matrix].out()), out.rows);
        push(op, o, {x}, part);
        return push(op, AllGatherOp{}, {part}, out);
      }
    }
  }

  // Leaves the rank's outputs of a matrix.
  void cut_outputs(int matrix) {
    const Matrix& all = whole_.matrices[matrix];
    const Columns& own = demand_.matrix_outputs[matrix];
    if (own.size() == all.out()) return;
    plan_.matrices[matrix].sources = cut_rows(all.sources, own, all.k);
    plan_.matrices[matrix].biases = cut_rows(all.biases, own, 0);
  }
  // `k`: columns of the sources' tensors; 0: they are vectors. Tensors of which nothing is left may lie unread in the
  // checkpoint.
  std::vector<TensorRows> cut_rows(const std::vector<TensorRows>& sources, const Columns& own, int k) {
    std::vector<TensorRows> cut;
    int64_t begin = 0;
    for (const TensorRows& source : sources) {
      const Columns inside = own.within(static_cast<int>(begin), static_cast<int>(source.rows));
      for (const Range& r : inside.ranges()) {
        TensorRows part = source;
        if (part.shape.empty() && k > 0) part.shape = {source.first_row + source.rows, k};
        if (part.shape.empty()) part.shape = {source.first_row + source.rows};
        (source.transposed ? part.first_col : part.first_row) += r.first;
        part.rows = r.size();
        cut.push_back(std::move(part));
      }
      if (inside.empty() && source.borrowed == Borrowed::no && !source.tensor.empty())
        plan_.unused.push_back(source.tensor);
      begin += source.rows;
    }
    return cut;
  }

  void rebuild(const HeadsOp& o, const Op& op, size_t) {
    const Range own = heads_of(demand_.wanted(*op.out), o.out_stride, o.dim, o.heads);
    HeadsOp part = o;
    part.heads = own.size();
    const Value x = mapped(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + o.dim});
    const Value out = mapped(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + o.dim});
    std::vector<Value> in{x};
    if (op.in.size() > 1) in.push_back(mapped(op.in[1]));
    push(op, part, std::move(in), out);
  }
  void rebuild(const PerHeadOp& o, const Op& op, size_t) {
    const Matrix& m = whole_.matrices[o.matrices.front()];
    const Range own =
        heads_of(demand_.wanted(*op.out), o.out_stride, static_cast<int>(m.out()), static_cast<int>(o.matrices.size()));
    PerHeadOp part = o;
    part.matrices.assign(o.matrices.begin() + own.first, o.matrices.begin() + own.last);
    push(op, part, {mapped(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + m.k})},
         mapped(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + static_cast<int>(m.out())}));
  }
  void rebuild(const AttendOp& o, const Op& op, size_t) {
    const Range own = demand_.heads.at({o.cache.kind, o.cache.group});
    const CacheSpec& spec = whole_.group(o.cache).spec;
    AttendOp part = o;
    part.heads = own.size();
    push(op, part, {mapped(op.in[0], {own.first * spec.k_dim, own.last * spec.k_dim})},
         mapped(*op.out, {own.first * spec.v_dim, own.last * spec.v_dim}));
  }
  void rebuild(const AppendOp& o, const Op& op, size_t) {
    const CacheSpec& spec = whole_.group(o.cache).spec;
    const Range own = demand_.kv_heads(o.cache);
    std::vector<Value> in{spec.kind == CacheSpec::Kind::latent
                              ? mapped(op.in[0])
                              : mapped(op.in[0], {own.first * spec.k_dim, own.last * spec.k_dim})};
    if (op.in.size() > 1) in.push_back(mapped(op.in[1], {own.first * spec.v_dim, own.last * spec.v_dim}));
    push(op, o, std::move(in), std::nullopt);
  }

  void rebuild(const GroupRowsOp& o, const Op& op, size_t) {
    push(op, o, {gathered(mapped(op.in[0]), op)}, mapped(*op.out));
  }

  // Experts. Where the ranks of a set share each expert, a rank has a part of every slot's columns, in storages of its
  // own (slot_parts_). The parts are joined where a product reads all of them as its k, so no sum over k is cut.
  void rebuild(const ExpertsOp& o, const Op& op, size_t) {
    const ExpertCut cut = demand_.expert_cut(o.experts);
    ExpertsOp part = o;
    part.first_expert = cut.experts.first;
    part.matrices.assign(o.matrices.begin() + cut.experts.first, o.matrices.begin() + cut.experts.last);
    for (const int matrix : part.matrices) cut_outputs(matrix);
    const bool parts = slot_parts_.contains(op.in[0].storage);
    const Value x = parts ? join_slots(op.in[0], o, cut, op) : gathered(mapped(op.in[0]), op);
    push(op, part, {x, mapped(op.in[1])}, cut.places > 1 ? slot_part(*op.out, o.slots) : mapped(*op.out));
  }
  void rebuild_slots(const ActivateOp& o, const Op& op) {
    ActivateOp part = o;
    part.cols = demand_.slot_columns.at(op.out->storage).size();
    const Value x = slot_parts_.at(op.in[0].storage);
    push(op, part, {x}, slot_part(*op.out, o.slots));
  }
  Value join_slots(const Value& v, const ExpertsOp& o, const ExpertCut& cut, const Op& like) {
    const Value part = slot_parts_.at(v.storage), all = mapped(v);
    plan_.storages[part.storage].shared = true;
    push(like, GatherSlotsOp{cut.places, o.slots, demand_.slot_columns.at(v.storage).size()}, {part}, all);
    return all;
  }
  // Room for the rank's columns of each slot of a value.
  Value slot_part(const Value& v, int slots) {
    const int cols = demand_.slot_columns.at(v.storage).size();
    const Value part = fresh(slots * slot_stride(cols), plan_.storages[v.storage].rows);
    slot_parts_[v.storage] = part;
    return part;
  }
  void rebuild(const CombineOp& o, const Op& op, size_t) {
    const ExpertCut cut = demand_.expert_cut(o.experts);
    CombineOp part = o;
    part.first_expert = cut.experts.first, part.last_expert = cut.experts.last;
    const Value out = mapped(*op.out), chosen = gathered(mapped(op.in[1]), op);
    const Value x = cut.places > 1 ? slot_parts_.at(op.in[0].storage) : mapped(op.in[0]);
    const Value sum = fresh_part(out.cols / cut.places, x.rows);
    push(op, part, {x, chosen}, sum);
    if (demand_.gathers_rows()) push(op, ReduceScatterOp{.places = cut.places}, {sum}, out);
    else push(op, AllReduceOp{.places = cut.places}, {sum}, out);
  }

  const Plan& whole_;
  const Demand& demand_;
  Plan plan_;
  // By storage of the whole plan: its rows of all ranks, and the rank's part of its slots.
  std::map<int, Value> gathered_, slot_parts_;
};

}  // namespace

void check_partial_sums(const Plan& plan) {
  std::vector<bool> partial(plan.storages.size());
  for (const Op& op : plan.ops) {
    const auto* linear = std::get_if<LinearOp>(&op.kind);
    const auto* combine = std::get_if<CombineOp>(&op.kind);
    if ((linear && linear->partial) || (combine && combine->last_expert - combine->first_expert < combine->experts))
      partial[op.out->storage] = true;
  }
  for (const Op& op : plan.ops)
    for (size_t i = 0; i < op.in.size(); ++i) {
      const bool reduces =
          i == 0 && (std::holds_alternative<AllReduceOp>(op.kind) || std::holds_alternative<ReduceScatterOp>(op.kind));
      WEFT_CHECK(reduces || !partial[op.in[i].storage]) << op_name(op) << " of " << op.path << " reads a partial sum";
    }
  for (const Value& result : plan.results())
    WEFT_CHECK(!partial[result.storage]) << "a result of the plan is a partial sum";
}

bool cuts_experts(const Plan& whole, const RankLayout& layout) {
  const Demand demand(whole, layout, 0);
  return std::any_of(whole.ops.begin(), whole.ops.end(), [&](const Op& op) {
    const auto* experts = std::get_if<ExpertsOp>(&op.kind);
    return experts && demand.expert_cut(experts->experts).places > 1;
  });
}

Result<Plan> split_plan(const Plan& whole, const RankLayout& layout, int rank) {
  Plan stage;
  if (layout.pipeline > 1) {
    WEFT_TRY(stage, cut_stage(whole, rank / layout.tensor, layout.pipeline));
  } else {
    stage = whole;
  }
  stage.layer_starts.clear();
  if (layout.tensor == 1) return stage;
  const int place = rank % layout.tensor;
  Demand demand(stage, layout, place);
  if (layout.pipeline > 1) {
    Demand all(whole, layout, place);
    WEFT_RETURN_IF_ERROR(all.find());
    demand.assume(all);
  }
  WEFT_RETURN_IF_ERROR(demand.find());
  return Share(stage, demand).make();
}

}  // namespace weft
