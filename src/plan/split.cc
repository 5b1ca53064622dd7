#include "plan/split.h"

#include <map>
#include <optional>
#include <set>

#include "base/check.h"
#include "kernels/kernels.h"
#include "plan/columns.h"
#include "plan/stage.h"

namespace weft {

namespace {

using Range = Columns::Range;

// How one matrix product is shared out.
enum class Cut : uint8_t {
  outputs,   // only the outputs that are read
  k,         // the rank's part of k; an all_reduce follows
  gathered,  // an all_gather of its input, the rank's outputs, and an all_gather of these
};

// Where the k of a matrix may be cut so that packing a part gives the codes and scales of the whole.
int k_unit(const Matrix& m) {
  if (!m.format || !kernels::is_quantized(m.format->form)) return m.shard_unit;
  const kernels::WeightGroups& groups = m.format->groups;
  // One scale for all of k, read from the checkpoint; made from the weights of a share it would be another one.
  if (groups.size >= m.k && groups.scale == kernels::ScaleKind::f32) return m.shard_unit;
  return groups.scale == kernels::ScaleKind::super ? 256 : groups.size;
}

// The heads, `stride` columns apart and `dim` wide, that have some of the columns.
Range heads_of(const Columns& columns, int stride, int dim, int heads) {
  const int first = columns.ranges().front().first, last = columns.ranges().back().last;
  return {first < dim ? 0 : (first - dim) / stride + 1, std::min((last - 1) / stride + 1, heads)};
}

// First pass, from the last op to the first: which columns of each storage the rank has, and how each op is shared.
class Demand {
 public:
  Demand(const Plan& plan, const RankLayout& layout, int rank)
      : plan_(plan), ranks_(layout.attention_dp ? 1 : layout.tensor), experts_(layout.experts), rank_(rank),
        needs(plan.storages.size()), cuts(plan.ops.size()), matrix_outputs(plan.matrices.size()) {}

  Status find() {
    // A group of cached layers has the same heads in all of them. Where they cannot be shared in one layer, all layers
    // keep all; then once more from the start.
    do {
      again_ = false;
      needs.assign(plan_.storages.size(), {});
      matrix_outputs.assign(plan_.matrices.size(), {});
      heads = known_heads_;
      seed();
      for (size_t i = plan_.ops.size(); i-- > 0 && !error_ && !again_;)
        std::visit([&](const auto& kind) { visit(kind, plan_.ops[i], i); }, plan_.ops[i].kind);
    } while (again_ && !error_);
    if (error_) return *error_;
    return {};
  }

  // Of a stage's plan: what was found for the plan of all stages, whose groups of the cache have the same heads in all.
  void assume(const Demand& whole) { known_heads_ = whole.heads; }

  Range share(int64_t size) const {
    return {static_cast<int>(size * rank_ / ranks_), static_cast<int>(size * (rank_ + 1) / ranks_)};
  }
  // Equal shares of whole panels, the last one shorter; all of it where a rank would get none.
  Range vocabulary(int size) const {
    const int each = vocabulary_share(size);
    if (each == size) return {0, size};
    return {rank_ * each, std::min(size, (rank_ + 1) * each)};
  }
  int vocabulary_share(int size) const {
    constexpr int kUnit = 16;
    const int each = ((size + ranks_ - 1) / ranks_ + kUnit - 1) / kUnit * kUnit;
    return ranks_ > 1 && plan_.head == HeadKind::lm && each * (ranks_ - 1) < size ? each : size;
  }
  Range expert_share(int experts) const {
    const int own = rank_ % experts_;
    return {experts / experts_ * own, experts / experts_ * (own + 1)};
  }
  int expert_ranks() const { return experts_; }
  // Attention data parallelism: the rows that ranks have are different ones, but experts are shared.
  bool gathers_rows() const { return ranks_ < experts_; }
  Columns wanted(const Value& v) const { return needs[v.storage].within(v.first_col, v.cols); }

 private:
  const Plan& plan_;
  const int ranks_, experts_, rank_;

 public:
  std::vector<Columns> needs;           // per storage
  std::vector<Cut> cuts;                // per op, of matrix products
  std::vector<Columns> matrix_outputs;  // per matrix: the rank's outputs; empty: not used so
  // Query heads that the rank has of each group of the cache, by kind and number.
  using HeadsOfGroups = std::map<std::pair<CacheRef::Kind, int>, Range>;
  HeadsOfGroups heads;

 private:
  void seed() {
    const Value& output = plan_.output;
    if (output.storage >= 0) want(output, vocabulary(output.cols));
    for (const Value& kept : {plan_.taps, plan_.state})
      if (kept.storage >= 0) want_all(kept);
  }

  void want(const Value& v, Range columns) {
    needs[v.storage].add({v.first_col + columns.first, v.first_col + columns.last});
  }
  void want_all(const Value& v) { want(v, {0, v.cols}); }
  bool is_read(const Op& op) const { return !op.out || !wanted(*op.out).empty(); }
  // An op that computes all of its output from all of its inputs.
  void whole(const Op& op) {
    if (!is_read(op)) return;
    if (op.out) want_all(*op.out);
    for (const Value& in : op.in) want_all(in);
  }
  // An op on elements.
  void same_columns(const Op& op) {
    const Columns columns = wanted(*op.out);
    if (columns.ranges().size() > 1) return whole(op);
    for (const Value& in : op.in)
      for (const Range& r : columns.ranges()) want(in, r);
  }
  template <class... Facts>
  void refuse(const Facts&... facts) {
    if (!error_) error_ = fail(Code::invalid_argument, facts...).about("tp-size");
  }

  template <class Kind>
  void visit(const Kind&, const Op& op, size_t) {
    whole(op);
  }
  template <kernels::IsElementwise F>
  void visit(const F&, const Op& op, size_t) {
    same_columns(op);
  }
  void visit(const GateOp&, const Op& op, size_t) { same_columns(op); }
  void visit(const SelectOp&, const Op& op, size_t) { same_columns(op); }

  void visit(const EmbedOp& o, const Op& op, size_t) {
    if (!is_read(op)) return;
    want_all(*op.out);
    if (o.matrix < 0) return;
    const Range own = vocabulary(static_cast<int>(plan_.matrices[o.matrix].out()));
    matrix_outputs[o.matrix].add(own);
  }

  void visit(const LinearOp& o, const Op& op, size_t i) {
    if (!is_read(op)) return;
    const Matrix& m = plan_.matrices[o.matrix];
    if (m.shard != Shard::rows || ranks_ == 1) {
      cuts[i] = Cut::outputs;
      matrix_outputs[o.matrix] = wanted(*op.out);
      return want_all(op.in[0]);
    }
    if (m.k % (ranks_ * m.shard_unit) != 0)
      return m.shard_unit > 1 ? refuse("the ", m.k / m.shard_unit, " attention heads of ", op.path,
                                       " cannot be shared by ", ranks_, " ranks: their number does not divide")
                              : refuse("the ", m.k, " columns of ", op.path, " cannot be shared by ", ranks_,
                                       " ranks: their number does not divide");
    const bool by_k = m.shards() % ranks_ == 0 && (m.k / ranks_) % k_unit(m) == 0;
    if (!by_k && m.out() % ranks_ != 0)
      return refuse("the ", m.out(), " outputs of ", op.path, " cannot be shared by ", ranks_, " ranks");
    cuts[i] = by_k ? Cut::k : Cut::gathered;
    want_all(*op.out);
    want(op.in[0], share(m.k));
    matrix_outputs[o.matrix].add(by_k ? Range{0, static_cast<int>(m.out())} : share(m.out()));
  }

  void visit(const HeadsOp& o, const Op& op, size_t) {
    const Columns columns = wanted(*op.out);
    if (columns.empty()) return;
    const Range own = heads_of(columns, o.out_stride, o.dim, o.heads);
    want(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + o.dim});
    want(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + o.dim});
    if (op.in.size() > 1) want_all(op.in[1]);
  }
  void visit(const PerHeadOp& o, const Op& op, size_t) {
    const Columns columns = wanted(*op.out);
    if (columns.empty()) return;
    const Matrix& m = plan_.matrices[o.matrices.front()];
    const Range own = heads_of(columns, o.out_stride, static_cast<int>(m.out()), static_cast<int>(o.matrices.size()));
    want(*op.out, {own.first * o.out_stride, (own.last - 1) * o.out_stride + static_cast<int>(m.out())});
    want(op.in[0], {own.first * o.in_stride, (own.last - 1) * o.in_stride + m.k});
    for (int h = own.first; h < own.last; ++h) matrix_outputs[o.matrices[h]].add({0, static_cast<int>(m.out())});
  }

  void visit(const AttendOp& o, const Op& op, size_t) {
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
      return refuse("the ", o.heads, " query heads over ", group.spec.kv_heads, " heads of keys and values of ",
                    op.path, " cannot be shared by ", ranks_, " ranks");
    want(*op.out, {own.first * group.spec.v_dim, own.last * group.spec.v_dim});
    want(op.in[0], {own.first * group.spec.k_dim, own.last * group.spec.k_dim});
  }
  void visit(const AppendOp& o, const Op& op, size_t) {
    const CacheSpec& spec = plan_.group(o.cache).spec;
    const Range own = kv_heads(o.cache);
    if (spec.kind == CacheSpec::Kind::latent) return want_all(op.in[0]);
    want(op.in[0], {own.first * spec.k_dim, own.last * spec.k_dim});
    want(op.in[1], {own.first * spec.v_dim, own.last * spec.v_dim});
  }

  void visit(const ActivateOp& o, const Op& op, size_t) {
    const Columns columns = wanted(*op.out);
    if (columns.ranges().size() != 1 || o.slots > 1) return whole(op);
    const Range own = columns.ranges().front();
    want(op.in[0], own);
    if (o.gated) want(op.in[0], {o.cols + own.first, o.cols + own.last});
  }

  void visit(const ExpertsOp& o, const Op& op, size_t) {
    whole(op);
    const int groups = kernels::expert_groups(o.experts);
    if (groups % experts_ != 0)
      refuse("the ", o.experts, " experts of ", op.path, " cannot be shared by ", experts_,
             " ranks: they are summed in ", groups, groups == 1 ? " group" : " groups of equal size");
    if (error_) return;
    const Range own = expert_share(o.experts);
    for (int e = own.first; e < own.last; ++e) {
      const int matrix = o.matrices[e - o.first_expert];
      matrix_outputs[matrix].add({0, static_cast<int>(plan_.matrices[matrix].out())});
    }
  }

 public:
  Range kv_heads(CacheRef ref) const {
    const LayerGroup& group = plan_.group(ref);
    const int kv = group.spec.kv_heads;
    const auto found = heads.find({ref.kind, ref.group});
    if (found == heads.end() || group.spec.kind == CacheSpec::Kind::latent) return {0, kv};
    const int per_kv = group.heads / kv;
    return {found->second.first / per_kv, (found->second.last - 1) / per_kv + 1};
  }

 private:
  HeadsOfGroups known_heads_;
  std::set<std::pair<CacheRef::Kind, int>> whole_groups_;
  bool again_ = false;
  std::optional<Error> error_;
};

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
    if (plan_.output.storage >= 0) plan_.output = mapped(whole_.output);
    if (plan_.output.cols != whole_.output.cols) {
      plan_.storages[plan_.output.storage].cols = demand_.vocabulary_share(whole_.output.cols);
      plan_.output = gather(plan_.output, whole_.output.cols, whole_.ops.back());
    }
    for (Value* kept : {&plan_.taps, &plan_.state})
      if (kept->storage >= 0) *kept = mapped(*kept);
    drop_unread_weights(plan_, whole_);
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
  void rebuild(const ExpertsOp& o, const Op& op, size_t) {
    const Range own = demand_.expert_share(o.experts);
    ExpertsOp part = o;
    part.first_expert = own.first;
    part.matrices.assign(o.matrices.begin() + own.first, o.matrices.begin() + own.last);
    push(op, part, {gathered(mapped(op.in[0]), op), mapped(op.in[1])}, mapped(*op.out));
  }
  void rebuild(const CombineOp& o, const Op& op, size_t) {
    const Range own = demand_.expert_share(o.experts);
    CombineOp part = o;
    part.first_expert = own.first, part.last_expert = own.last;
    const Value out = mapped(*op.out);
    const Value x = mapped(op.in[0]), chosen = gathered(mapped(op.in[1]), op);
    if (demand_.expert_ranks() == 1) return push(op, part, {x, chosen}, out);
    const Value sum = fresh_part(out.cols, x.rows);
    push(op, part, {x, chosen}, sum);
    if (demand_.gathers_rows()) push(op, ReduceScatterOp{}, {sum}, out);
    else push(op, AllReduceOp{}, {sum}, out);
  }

  const Plan& whole_;
  const Demand& demand_;
  Plan plan_;
  std::map<int, Value> gathered_;  // by storage
};

}  // namespace

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
