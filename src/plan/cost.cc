#include "plan/cost.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "plan/cpu_executor.h"

namespace weft {

namespace {

using kernels::WeightForm;

int64_t table_bytes(const Plan& plan, size_t table, WeightForm form) {
  return plan.tables[table].rows * plan.table_cols[table] * (form == WeightForm::f32 ? 4 : 2);
}

int64_t bias_bytes(const Matrix& matrix) {
  int64_t rows = 0;
  for (const TensorRows& bias : matrix.biases) rows += bias.rows;
  return rows * 4;
}

// Of one layer and token.
int64_t cache_bytes(const LayerGroup& group, DType type) {
  CacheSpec spec = group.spec;
  spec.dtype = type;
  return int64_t{spec.kv_heads} * bytes_per_token(spec);
}

}  // namespace

int64_t HeldBytes::weight_bytes() const {
  int64_t sum = 0;
  for (const auto& [form, bytes] : weights) sum += bytes;
  return sum;
}

Traffic StepCost::sent() const {
  Traffic sum;
  for (const auto& [name, part] : traffic) sum += part;
  return sum;
}

HeldBytes held_bytes(const Plan& share, WeightForm form, DType cache) {
  HeldBytes held;
  const auto hold = [&](WeightForm as, int64_t bytes) {
    if (bytes > 0) held.weights[kernels::name(as)] += bytes;
  };
  for (const Matrix& matrix : share.matrices) {
    hold(format_of(matrix, form).form, matrix.bytes(form));
    hold(WeightForm::f32, bias_bytes(matrix));
  }
  for (size_t t = 0; t < share.tables.size(); ++t) hold(form, table_bytes(share, t, form));
  for (const VectorWeight& vector : share.vectors)
    if (!vector.tensor.empty()) hold(WeightForm::f32, vector.size * 4);
  for (const LayerGroup& group : share.groups) held.cache_per_token += group.layers * cache_bytes(group, cache);
  return held;
}

namespace {

// Adds up the ops of one rank's share.
class StepCounter {
 public:
  StepCounter(const Plan& share, const RankPlaces& places, int rank, const StepShape& step, const MachineModel& machine,
              WeightForm form, DType cache)
      : plan_(share), places_(places), rank_(rank), step_(step), machine_(machine), form_(form), cache_(cache) {
    const int homes = places.layout.homes();
    sequences_ = (step.sequences + homes - 1) / homes;
    const int node = places.node(rank), first = rank / places.layout.tensor * places.layout.tensor;
    for (int r = first; r < first + places.layout.tensor; ++r) sharers_ += places.node(r) == node ? 1 : 0;
  }

  StepCost count() {
    for (const Op& op : plan_.ops)
      if (!op.images_only) std::visit([&](const auto& kind) { add(kind, op); }, op.kind);
    add_outputs();
    return std::move(cost_);
  }

 private:
  // Of the rank's home, or of all.
  int64_t rows_of(Rows rows) const {
    switch (rows) {
      case Rows::outputs: return sequences_;
      case Rows::gathered: return step_.sequences * step_.rows;
      case Rows::tokens:
      case Rows::mixed: break;
    }
    return sequences_ * step_.rows;
  }

  struct Work {
    double bytes = 0, flops = 0;
  };
  double seconds(const Work& work) const {
    return std::max(work.bytes / machine_.memory_bytes, work.flops / machine_.flops);
  }
  void spend(const Work& work) { cost_.compute_seconds += seconds(work); }
  void spend_weights(const Work& work) {
    cost_.weight_bytes += work.bytes, cost_.flops += work.flops;
    spend(work);
  }

  template <class Kind>
  void add(const Kind&, const Op&) {}

  void add(const EmbedOp& o, const Op& op) {
    const int64_t table_row = o.matrix >= 0 ? plan_.matrices[o.matrix].bytes(form_) / plan_.matrices[o.matrix].out()
                                            : op.out->cols * (form_ == WeightForm::f32 ? 4 : 2);
    spend_weights({static_cast<double>(rows_of(op.out->rows) * table_row), 0});
  }
  void add(const LinearOp& o, const Op& op) {
    const int64_t rows = rows_of(op.out->rows);
    add_products(o.matrix, 1, rows);
    product_ = {op.out->storage, seconds(products(o.matrix, 1, static_cast<double>(rows)))};
  }
  void add(const PerHeadOp& o, const Op& op) {
    add_products(o.matrices.front(), static_cast<double>(o.matrices.size()), rows_of(op.out->rows));
  }
  void add(const RouteOp& o, const Op&) { rule_ = o.rule; }

  Work products(int matrix, double matrices, double rows_and_matrices) const {
    const Matrix& m = plan_.matrices[matrix];
    return {matrices * static_cast<double>(m.bytes(form_) + bias_bytes(m)),
            rows_and_matrices * 2 * static_cast<double>(m.out()) * m.k};
  }
  void add_products(int matrix, double matrices, int64_t rows) {
    spend_weights(products(matrix, matrices, matrices * static_cast<double>(rows)));
  }
  void add(const ExpertsOp& o, const Op& op) {
    const int ranks = o.experts / static_cast<int>(o.matrices.size());
    const ExpertLoad& load = load_of(ranks, rows_of(op.out->rows));
    const Work average = products(o.matrices.front(), load.hit, load.pairs);
    cost_.weight_bytes += average.bytes, cost_.flops += average.flops;
    spend(products(o.matrices.front(), load.slowest_hit, load.slowest_pairs));
  }
  // The same in every layer.
  const ExpertLoad& load_of(int ranks, int64_t rows) {
    const auto key = std::tuple(rule_.experts, rule_.chosen, ranks, rows);
    if (!load_ || load_key_ != key) load_ = expert_load(rule_, ranks, rows), load_key_ = key;
    return *load_;
  }

  void add(const AttendOp& o, const Op&) {
    const LayerGroup& group = plan_.group(o.cache);
    const int64_t span = group.spec.span > 0 ? group.spec.span : step_.context;
    double seen = 0;  // by all rows of a sequence
    for (int64_t i = 0; i < step_.rows; ++i)
      seen += static_cast<double>(std::min(step_.context - step_.rows + 1 + i, span));
    const auto sequences = static_cast<double>(sequences_);
    Work work{0, sequences * seen * 2 * o.heads * (group.spec.k_dim + group.spec.v_dim)};
    if (o.cache.kind == CacheRef::Kind::paged)
      work.bytes =
          sequences * static_cast<double>(std::min(step_.context, span + step_.rows - 1) * cache_bytes(group, cache_));
    cost_.cache_bytes += work.bytes, cost_.flops += work.flops;
    spend(work);
  }

  int64_t part_bytes(const Op& op) const { return rows_of(op.in[0].rows) * plan_.storages[op.in[0].storage].cols * 4; }
  void add(const AllReduceOp& o, const Op& op) {
    if (op.in[0].storage == product_.storage) return add_sum_of_product(op);
    exchange(op_name(op), o.places == 1 ? reduce_traffic(places_, rank_, part_bytes(op))
                                        : gather_traffic(places_, rank_, part_bytes(op)));
  }
  void add(const PickRowsOp&, const Op& op) { exchange(op_name(op), gather_traffic(places_, rank_, part_bytes(op))); }
  void add(const AllGatherOp&, const Op& op) { exchange(op_name(op), gather_traffic(places_, rank_, part_bytes(op))); }
  void add(const GatherSlotsOp& o, const Op& op) {
    exchange(op_name(op), gather_traffic(places_, rank_, part_bytes(op), o.ranks));
  }
  void add(const GatherRowsOp&, const Op& op) { exchange(op_name(op), gather_traffic(places_, rank_, part_bytes(op))); }
  void add(const ReduceScatterOp&, const Op& op) {
    const int64_t piece = rows_of(Rows::tokens) * plan_.storages[op.in[0].storage].cols * 4;
    exchange(op_name(op), gather_traffic(places_, rank_, piece));
  }
  void add(const SendOp&, const Op& op) { exchange(op_name(op), send_traffic(places_, rank_, part_bytes(op))); }

  // Of ranks with all columns of the same rows the first one's.
  void add_outputs() {
    constexpr int64_t kCandidateBytes = 8;
    const bool has_part =
        plan_.output_part.all > 0 || places_.layout.attention_dp || rank_ % places_.layout.tensor == 0;
    if (plan_.output.storage < 0 || !has_part || rank_ == 0) return;
    exchange("outputs", output_traffic(places_, rank_, rows_of(Rows::outputs) * kCandidateBytes));
  }

  void add_sum_of_product(const Op& op) {
    const int pieces = sum_pieces(rows_of(op.in[0].rows));
    Traffic sent = reduce_traffic(places_, rank_, part_bytes(op));
    for (int64_t* count : {&sent.messages, &sent.network_messages, &sent.network_rounds}) *count *= pieces;
    exchange(op_name(op), sent);
    cost_.hidden_seconds += std::min(product_.seconds, seconds(sent)) * (pieces - 1) / pieces;
  }

  double seconds(const Traffic& sent) const {
    return static_cast<double>(sent.bytes - sent.network_bytes) / machine_.memory_bytes +
           static_cast<double>(sent.network_bytes * sharers_) / machine_.network_bytes +
           static_cast<double>(sent.network_rounds) * machine_.network_latency;
  }
  void exchange(const char* name, const Traffic& sent) {
    cost_.traffic[name] += sent;
    cost_.message_seconds += seconds(sent);
  }

  const Plan& plan_;
  const RankPlaces& places_;
  const int rank_;
  const StepShape& step_;
  const MachineModel& machine_;
  const WeightForm form_;
  const DType cache_;
  int64_t sequences_ = 0;  // of the home
  int sharers_ = 0;        // ranks of the stage on the rank's node
  struct Product {
    int storage = -1;
    double seconds = 0;
  };
  Product product_;  // the last one
  kernels::RouteRule rule_;
  std::optional<ExpertLoad> load_;
  std::tuple<int, int, int, int64_t> load_key_;
  StepCost cost_;
};

}  // namespace

StepCost step_cost(const Plan& share, const RankPlaces& places, int rank, const StepShape& step,
                   const MachineModel& machine, WeightForm form, DType cache) {
  return StepCounter(share, places, rank, step, machine, form, cache).count();
}

}  // namespace weft
