#include "plan/adapters.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"

namespace weft {

using kernels::CpuTable;
using kernels::Operand;
using kernels::PackedMatrix;
using kernels::WeightForm;

namespace {

constexpr std::string_view kWeight = ".weight";
std::string module_of(const TensorRows& source) {
  return source.tensor.substr(0, source.tensor.size() - kWeight.size());
}

// A matrix of whole modules: each source is some outputs of one.
bool takes_adapters(const Matrix& m) {
  return std::ranges::all_of(m.sources, [](const TensorRows& source) {
    return !source.transposed && source.borrowed == Borrowed::no && source.tensor.ends_with(kWeight);
  });
}
bool takes_adapters(const Plan& plan, const std::vector<int>& matrices) {
  return std::ranges::all_of(matrices, [&](int m) { return takes_adapters(plan.matrices[static_cast<size_t>(m)]); });
}

// The modules of a matrix, in the order of its outputs.
std::vector<std::string> modules_of(const Matrix& m) {
  std::vector<std::string> modules;
  for (const TensorRows& source : m.sources)
    if (std::string module = module_of(source); std::ranges::find(modules, module) == modules.end())
      modules.push_back(std::move(module));
  return modules;
}

// Rows of A and k of B of a module: kernels take bfloat16 in pairs.
int padded(int rank) { return (rank + 1) / 2 * 2; }

WeightForm form_of_factors(const Matrix& m, WeightForm form) { return m.keep_float32 ? WeightForm::f32 : form; }

// ---- The pass ------------------------------------------------------------------------------------------------------

class Rewrite {
 public:
  Rewrite(Plan plan, const CpuTable& table, const AdapterForm& form)
      : plan_(std::move(plan)), table_(table), form_(form) {}

  Plan make() {
    for (Op& op : std::exchange(plan_.ops, {})) {
      const auto* linear = std::get_if<LinearOp>(&op.kind);
      const auto* experts = std::get_if<ExpertsOp>(&op.kind);
      if (linear && changes(*linear, op)) linear->partial ? summed(std::move(op)) : dense(std::move(op));
      else if (experts && takes_adapters(plan_, experts->matrices)) routed(std::move(op));
      else if (std::holds_alternative<AllReduceOp>(op.kind)) sum(std::move(op));
      else plan_.ops.push_back(std::move(op));
    }
    WEFT_CHECK(unsummed_.empty()) << "a product's parts are not added up";
    return std::move(plan_);
  }

 private:
  // Heads have rows of their own.
  bool changes(const LinearOp& linear, const Op& op) const {
    return op.out->rows == Rows::tokens && takes_adapters(plan_, {linear.matrix});
  }
  const Matrix& matrix(int index) const { return plan_.matrices[static_cast<size_t>(index)]; }
  Value fresh(int cols, Rows rows, bool shared = false) {
    plan_.storages.push_back({.cols = cols, .rows = rows, .shared = shared});
    return {static_cast<int>(plan_.storages.size()) - 1, 0, cols, rows};
  }
  void push(const Op& like, OpKind kind, std::vector<Value> in, Value out) {
    plan_.ops.push_back({std::move(kind), std::move(in), out, like.path, like.images_only, like.pass});
  }
  AdapterOp site(int first) {
    AdapterOp op;
    op.site = static_cast<int>(plan_.adapter_sites.size());
    const WeightForm form = form_of_factors(matrix(first), form_.form);
    op.operand = table_.operand(form);
    return op;
  }
  int inner_cols(int first) const {
    return static_cast<int>(modules_of(matrix(first)).size()) * padded(form_.max_rank);
  }

  // An op like another one in all but its kind and values.
  static Op like(const Op& op) { return {ActivateOp{}, {}, {}, op.path, op.images_only, op.pass}; }
  AdapterOp add_site(const LinearOp& linear) {
    const AdapterOp at = site(linear.matrix);
    plan_.adapter_sites.push_back(linear.matrix);
    return at;
  }

  void dense(Op op) {
    auto& linear = std::get<LinearOp>(op.kind);
    const AdapterOp at = add_site(linear);
    const Value inner = fresh(inner_cols(linear.matrix), op.in[0].rows), result = *op.out;
    push(op, AdapterInOp{at}, {op.in[0]}, inner);
    if (!linear.gate) return add(std::move(op), at, inner);
    // The activation waits for the adapters.
    const ActivateOp activate{*linear.gate, true, result.cols};
    linear.gate.reset(), linear.apart = true;
    const Value both = fresh(2 * result.cols, result.rows);
    op.out = both;
    const Op kind = like(op);
    add(std::move(op), at, inner);
    push(kind, activate, {both}, result);
  }

  // The op, and behind it what the adapters add to its output. A residual comes last: where ranks share the outputs of
  // a product, it is not fused with it, and the order of additions is to be the same.
  void add(Op op, const AdapterOp& at, Value inner) {
    const Value result = *op.out;
    std::optional<Value> residual;
    auto* const linear = std::get_if<LinearOp>(&op.kind);
    bool& adds = linear ? linear->add : std::get<AllReduceOp>(op.kind).add;
    if (adds) {
      adds = false;
      residual = op.in.back();
      op.in.pop_back();
      op.out = fresh(result.cols, result.rows);
    }
    const Op kind = like(op);
    const Value out = *op.out;
    plan_.ops.push_back(std::move(op));
    push(kind, AdapterOutOp{at}, {inner}, out);
    if (residual) push(kind, kernels::Add{}, {out, *residual}, result);
  }

  // Of a product whose parts ranks add up: the parts of what A makes are added up in front of it, since the product's
  // own sum is to stay right behind it.
  void summed(Op op) {
    const auto& linear = std::get<LinearOp>(op.kind);
    const AdapterOp at = add_site(linear);
    const int cols = inner_cols(linear.matrix);
    const Value part = fresh(cols, op.in[0].rows, true), inner = fresh(cols, op.in[0].rows);
    push(op, AdapterInOp{at}, {op.in[0]}, part);
    push(op, AllReduceOp{}, {part}, inner);
    unsummed_[op.out->storage] = {at, inner};
    plan_.ops.push_back(std::move(op));
  }
  void sum(Op op) {
    const auto found = unsummed_.find(op.in[0].storage);
    if (found == unsummed_.end()) return plan_.ops.push_back(std::move(op));
    const Summed product = found->second;
    unsummed_.erase(found);
    add(std::move(op), product.at, product.inner);
  }

  void routed(Op op) {
    const auto experts = std::get<ExpertsOp>(op.kind);
    AdapterOp at = site(experts.matrices.front());
    at.experts = true, at.experts_in_all = experts.experts, at.first_expert = experts.first_expert;
    at.expert_count = static_cast<int>(experts.matrices.size());
    at.slots = experts.slots, at.same_input = experts.same_input;
    plan_.adapter_sites.insert(plan_.adapter_sites.end(), experts.matrices.begin(), experts.matrices.end());
    const int cols = experts.slots * slot_stride(inner_cols(experts.matrices.front()));
    const Value inner = fresh(cols, op.out->rows), x = op.in[0], grouped = op.in[1], out = *op.out;
    push(op, AdapterInOp{at}, {x, grouped}, inner);
    const Op kind = like(op);
    plan_.ops.push_back(std::move(op));
    push(kind, AdapterOutOp{at}, {inner, grouped}, out);
  }

  struct Summed {
    AdapterOp at;
    Value inner;
  };
  Plan plan_;
  const CpuTable& table_;
  const AdapterForm form_;
  std::map<int, Summed> unsummed_;  // by the storage of the product's parts
};

// ---- Factors -------------------------------------------------------------------------------------------------------

class Packer {
 public:
  Packer(const Plan& plan, const Adapter& adapter, const CpuTable& table, const AdapterForm& form)
      : plan_(plan), adapter_(adapter), table_(table), form_(form) {}

  Result<AdapterWeights> pack() {
    size_t bytes = 0;
    each_matrix([&](const PackedMatrix& m, const std::vector<float>&) { bytes += bytes_of(m); });
    WEFT_TRY(Memory memory, Memory::reserve(bytes + kernels::kReadAhead, true));
    std::byte* next = memory.data();
    weights_.sites.clear();
    each_matrix([&](PackedMatrix& m, const std::vector<float>& rows) {
      m.data = next;
      for (int first = 0; first < m.out; first += m.panel)
        table_.pack_panel(m.form, rows.data() + static_cast<size_t>(first) * static_cast<size_t>(m.k), m.k,
                          std::min(m.panel, m.out - first), m.k,
                          next + static_cast<size_t>(first / m.panel) * m.panel_bytes);
      next += bytes_of(m);
    });
    weights_.bytes = static_cast<int64_t>(bytes);
    weights_.memory.push_back(std::move(memory));
    return std::move(weights_);
  }

 private:
  static size_t bytes_of(const PackedMatrix& m) {
    return (static_cast<size_t>((m.out + m.panel - 1) / m.panel) * m.panel_bytes + 63) / 64 * 64;
  }
  PackedMatrix shaped(WeightForm form, int out, int k, int shards) const {
    return {.form = form,
            .out = out,
            .k = k,
            .panel = table_.panel_cols(form),
            .panel_bytes = table_.panel_bytes(form, k),
            .shards = shards};
  }

  // Calls visit(matrix, its rows) for all factors, in the place where they are kept.
  template <class Visit>
  void each_matrix(Visit visit) {
    weights_.sites.assign(plan_.adapter_sites.size(), {});
    for (size_t s = 0; s < weights_.sites.size(); ++s)
      pack_site(plan_.matrices[static_cast<size_t>(plan_.adapter_sites[s])], weights_.sites[s], visit);
  }

  template <class Visit>
  void pack_site(const Matrix& m, AdapterWeights::Site& site, Visit visit) {
    const WeightForm form = form_of_factors(m, form_.form);
    std::map<std::string, int> columns;  // of what A makes
    int cols = 0;
    for (const std::string& module : modules_of(m))
      if (const auto pair = adapter_.pairs.find(module); pair != adapter_.pairs.end())
        columns[module] = std::exchange(cols, cols + padded(pair->second.rank));
    if (cols == 0) return;
    site.a = shaped(form, cols, m.k, shards_of(m));
    std::vector<float> rows(static_cast<size_t>(cols) * static_cast<size_t>(m.k));
    for (const auto& [module, column] : columns) {
      const AdapterPair& pair = adapter_.pairs.at(module);
      for (int r = 0; r < pair.rank; ++r)
        std::copy_n(pair.a.begin() + r * pair.in + m.first_k, m.k,
                    rows.begin() + static_cast<int64_t>(column + r) * m.k);
    }
    visit(site.a, rows);
    int64_t to = 0;
    for (const TensorRows& source : m.sources) {
      if (const auto column = columns.find(module_of(source)); column != columns.end()) {
        const AdapterPair& pair = adapter_.pairs.at(column->first);
        AdapterWeights::Product product{shaped(form, static_cast<int>(source.rows), padded(pair.rank), 1),
                                        column->second, static_cast<int>(to)};
        visit(product.b, scaled_rows(pair, source));
        site.products.push_back(product);
      }
      to += source.rows;
    }
  }

  // As the whole matrix has them, or of a rank's part of k what falls to it.
  static int shards_of(const Matrix& m) {
    Matrix whole{.k = m.tensor_k > 0 ? m.tensor_k : m.k, .shard = m.shard, .shard_unit = m.shard_unit};
    return m.tensor_k > 0 ? whole.shards() * m.k / m.tensor_k : whole.shards();
  }

  static std::vector<float> scaled_rows(const AdapterPair& pair, const TensorRows& source) {
    const auto k = static_cast<size_t>(padded(pair.rank));
    std::vector<float> rows(static_cast<size_t>(source.rows) * k);
    for (int64_t n = 0; n < source.rows; ++n)
      for (int r = 0; r < pair.rank; ++r)
        rows[static_cast<size_t>(n) * k + static_cast<size_t>(r)] =
            pair.scale * pair.b[static_cast<size_t>((source.first_row + n) * pair.rank + r)];
    return rows;
  }

  const Plan& plan_;
  const Adapter& adapter_;
  const CpuTable& table_;
  const AdapterForm form_;
  AdapterWeights weights_;
};

}  // namespace

Plan add_adapters(Plan fused, const CpuTable& table, const AdapterForm& form) {
  return Rewrite(std::move(fused), table, form).make();
}

Result<AdapterWeights> pack_adapter(const Plan& plan, const Adapter& adapter, const CpuTable& table,
                                    const AdapterForm& form) {
  return Packer(plan, adapter, table, form).pack();
}

std::map<std::string, AdapterModule> adapter_modules(const Plan& whole) {
  std::map<std::string, AdapterModule> modules;
  const auto add = [&](const std::vector<int>& matrices) {
    if (!takes_adapters(whole, matrices)) return;
    for (const int index : matrices) {
      const Matrix& m = whole.matrices[static_cast<size_t>(index)];
      for (const TensorRows& source : m.sources) {
        AdapterModule& module = modules[module_of(source)];
        module.in = m.k;
        module.out = std::max(module.out, source.shape.empty() ? source.first_row + source.rows : source.shape[0]);
      }
    }
  };
  for (const Op& op : whole.ops) {
    if (const auto* linear = std::get_if<LinearOp>(&op.kind); linear && op.out->rows == Rows::tokens)
      add({linear->matrix});
    if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) add(experts->matrices);
  }
  return modules;
}

Status check_adapter(const std::map<std::string, AdapterModule>& modules, const Adapter& adapter, int max_rank) {
  const auto wrong = [&](Code code, const std::string& tensor, const auto&... facts) -> Status {
    return fail(code, "tensor ", tensor, facts...).with(adapter.file);
  };
  for (const auto& [name, pair] : adapter.pairs) {
    const auto module = modules.find(name);
    if (module == modules.end())
      return wrong(
          Code::unsupported, pair.a_name, " is for ", name, ", which is no module of this model",
          name.ends_with("kv_b_proj") ? " that takes adapters (latent attention absorbs it)" : " that takes adapters");
    if (pair.in != module->second.in)
      return wrong(Code::data_corrupt, pair.a_name, " has ", pair.in, " columns, ", name, " has ", module->second.in,
                   " inputs");
    if (pair.out != module->second.out)
      return wrong(Code::data_corrupt, pair.b_name, " has ", pair.out, " rows, ", name, " has ", module->second.out,
                   " outputs");
    if (pair.rank > max_rank)
      return wrong(Code::invalid_argument, pair.a_name, " has rank ", pair.rank, ", --max-lora-rank is ", max_rank);
  }
  return {};
}

}  // namespace weft
