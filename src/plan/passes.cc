#include "plan/passes.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <tuple>

#include "base/check.h"

namespace weft {

using kernels::Operand;

namespace {

using OperandOf = std::function<Operand(const Matrix&)>;

// What a matrix product reads as its first input.
struct ProductInput {
  Operand operand = Operand::f32;
  int slots = 1, cols = 0;  // rows of `cols` columns that lie in each row; cols 0: all
};
// Nothing for other ops. Of several matrices all are of one shape and form.
std::optional<ProductInput> product_input(const Plan& plan, const Op& op, const OperandOf& operand_of) {
  const auto matrix = [&](int index) -> const Matrix& { return plan.matrices[static_cast<size_t>(index)]; };
  if (const auto* linear = std::get_if<LinearOp>(&op.kind)) return ProductInput{operand_of(matrix(linear->matrix))};
  if (const auto* heads = std::get_if<PerHeadOp>(&op.kind))
    return ProductInput{operand_of(matrix(heads->matrices.front()))};
  if (const auto* experts = std::get_if<ExpertsOp>(&op.kind)) {
    const Matrix& m = matrix(experts->matrices.front());
    if (experts->same_input) return ProductInput{operand_of(m)};
    return ProductInput{operand_of(m), experts->slots, m.k};
  }
  if (const auto* adapter = std::get_if<AdapterInOp>(&op.kind)) {
    if (adapter->same_input) return ProductInput{adapter->operand};
    return ProductInput{adapter->operand, adapter->slots,
                        matrix(plan.adapter_sites[static_cast<size_t>(adapter->site)]).k};
  }
  return std::nullopt;
}

std::vector<int> count_readers(const Plan& plan) {
  std::vector<int> readers(plan.storages.size());
  for (const Op& op : plan.ops)
    for (const Value& in : op.in) ++readers[in.storage];
  for (const Value& result : plan.results()) ++readers[result.storage];
  return readers;
}

// The op that writes a storage, -1 if there are several (in-place ops).
std::vector<int> find_writers(const Plan& plan) {
  std::vector<int> writers(plan.storages.size(), -2);
  for (size_t i = 0; i < plan.ops.size(); ++i)
    if (plan.ops[i].out) {
      int& writer = writers[plan.ops[i].out->storage];
      writer = writer == -2 ? static_cast<int>(i) : -1;
    }
  return writers;
}

Plan without(Plan plan, const std::vector<bool>& dropped) {
  std::vector<Op> kept;
  for (size_t i = 0; i < plan.ops.size(); ++i)
    if (!dropped[i]) kept.push_back(std::move(plan.ops[i]));
  plan.ops = std::move(kept);
  return plan;
}

// Whether an op that can add a second input does so; null: it cannot.
bool* added_to(Op& op) {
  if (auto* linear = std::get_if<LinearOp>(&op.kind)) return linear->partial ? nullptr : &linear->add;
  if (auto* reduce = std::get_if<AllReduceOp>(&op.kind)) return &reduce->add;
  if (auto* reduce = std::get_if<ReduceScatterOp>(&op.kind)) return &reduce->add;
  return nullptr;
}

}  // namespace

Plan fuse_residual_adds(Plan plan) {
  const std::vector<int> readers = count_readers(plan), writers = find_writers(plan);
  std::vector<bool> dropped(plan.ops.size());
  for (Op& op : plan.ops) {
    if (!std::holds_alternative<kernels::Add>(op.kind)) continue;
    for (int side : {1, 0}) {
      const Value product = op.in[side], other = op.in[1 - side];
      const int writer = writers[product.storage];
      if (writer < 0 || readers[product.storage] != 1 || product.first_col != 0 ||
          product.cols != plan.storages[product.storage].cols)
        continue;
      bool* const add = added_to(plan.ops[writer]);
      // The product moves to the place of the addition, where the other operand surely exists.
      if (!add || *add) continue;
      *add = true;
      Op fused = std::move(plan.ops[writer]);
      fused.in.push_back(other);
      fused.out = op.out;
      dropped[writer] = true;
      op = std::move(fused);
      break;
    }
  }
  return without(std::move(plan), dropped);
}

Plan fuse_gates(Plan plan) {
  const std::vector<int> readers = count_readers(plan), writers = find_writers(plan);
  std::vector<int> uses(plan.matrices.size());
  for (const Op& op : plan.ops) {
    if (const auto* linear = std::get_if<LinearOp>(&op.kind)) ++uses[linear->matrix];
    if (const auto* embed = std::get_if<EmbedOp>(&op.kind); embed && embed->matrix >= 0) ++uses[embed->matrix];
  }
  std::vector<bool> dropped(plan.ops.size());
  for (Op& op : plan.ops) {
    const auto* activate = std::get_if<ActivateOp>(&op.kind);
    if (!activate || !activate->gated || activate->slots != 1) continue;
    const Value both = op.in[0];
    const int writer = writers[both.storage];
    if (writer < 0 || readers[both.storage] != 1 || both.first_col != 0 ||
        both.cols != plan.storages[both.storage].cols)
      continue;
    auto* linear = std::get_if<LinearOp>(&plan.ops[writer].kind);
    if (!linear || linear->add || uses[linear->matrix] != 1 || *plan.ops[writer].out != both) continue;
    if (writers[plan.ops[writer].in[0].storage] < 0) continue;  // its input may be another one by then
    Matrix& matrix = plan.matrices[linear->matrix];
    if (activate->cols % kernels::kGateColumns != 0 || matrix.out() != 2 * activate->cols || matrix.shards() != 1)
      continue;
    matrix.gated = true;
    linear->gate = activate->act;
    // The product moves to the place of the activation, where the output's storage is surely free.
    Op fused = std::move(plan.ops[writer]);
    fused.out = op.out;
    dropped[writer] = true;
    op = std::move(fused);
  }
  return without(std::move(plan), dropped);
}

Plan place_operands(Plan plan, const OperandOf& operand_of) {
  // What each reader of a storage wants: f32 for everything but matrix products.
  const std::vector<int> writers = find_writers(plan);
  std::vector<int> wanted(plan.storages.size(), -1);  // an Operand, or -2 if readers differ
  const auto want = [&](int storage, Operand operand) {
    const int value = static_cast<int>(operand);
    if (wanted[storage] == -1) wanted[storage] = value;
    else if (wanted[storage] != value) wanted[storage] = -2;
  };
  for (const Op& op : plan.ops)
    for (size_t i = 0; i < op.in.size(); ++i) {
      const auto product = i == 0 ? product_input(plan, op, operand_of) : std::nullopt;
      const bool sliced = op.in[i].cols != plan.storages[op.in[i].storage].cols;
      want(op.in[i].storage, product && !sliced ? product->operand : Operand::f32);
    }
  for (const Value& result : plan.results()) want(result.storage, Operand::f32);
  // Attention writes a row head by head and a product block by block, whose ends need not be those of strips.
  const auto writes_operands = [&](int writer, int operand) {
    if (writer < 0) return false;
    const OpKind& kind = plan.ops[writer].kind;
    const auto* linear = std::get_if<LinearOp>(&kind);
    if (std::holds_alternative<AttendOp>(kind) || (linear && linear->gate))
      return operand != static_cast<int>(Operand::int8);
    return std::holds_alternative<NormOp>(kind) || std::holds_alternative<ActivateOp>(kind) ||
           std::holds_alternative<ScaleRowsOp>(kind) || std::holds_alternative<InputOp>(kind);
  };
  for (size_t s = 0; s < plan.storages.size(); ++s)
    if (wanted[s] > 0 && writes_operands(writers[s], wanted[s]))
      plan.storages[s].operand = static_cast<Operand>(wanted[s]);

  std::vector<Op> ops;
  // (storage, operand, and when the op runs) -> source, its operand form
  std::map<std::tuple<int, Operand, bool, Pass>, std::pair<Value, Value>> converted;
  for (Op& op : plan.ops) {
    if (const auto product = product_input(plan, op, operand_of)) {
      Value& x = op.in[0];
      const Operand operand = product->operand;
      if (plan.storages[x.storage].operand != operand) {
        WEFT_CHECK(plan.storages[x.storage].operand == Operand::f32) << "an operand is read in another form";
        auto& [source, value] = converted[{x.storage, operand, op.images_only, op.pass}];
        if (value.storage < 0 || !(source == x)) {
          source = x;
          value = {static_cast<int>(plan.storages.size()), 0, x.cols, x.rows};
          plan.storages.push_back({x.cols, x.rows, operand});
          const ToOperandOp convert{.slots = product->slots, .cols = product->cols > 0 ? product->cols : x.cols};
          ops.push_back({convert, {x}, value, op.path, op.images_only, op.pass});
        }
        x = value;
      }
    }
    if (op.out)  // a write makes older conversions of that storage stale
      for (auto it = converted.begin(); it != converted.end();)
        it = std::get<0>(it->first) == op.out->storage ? converted.erase(it) : std::next(it);
    ops.push_back(std::move(op));
  }
  plan.ops = std::move(ops);
  return plan;
}

Plan remove_dead_ops(Plan plan) {
  std::vector<bool> live(plan.storages.size());
  for (const Value& result : plan.results()) live[result.storage] = true;
  std::vector<Op> kept;
  for (size_t i = plan.ops.size(); i-- > 0;) {
    Op& op = plan.ops[i];
    if (op.out && !live[op.out->storage]) continue;
    for (const Value& in : op.in) live[in.storage] = true;
    kept.push_back(std::move(op));
  }
  std::reverse(kept.begin(), kept.end());
  plan.ops = std::move(kept);
  return plan;
}

namespace {

size_t storage_bytes(const Storage& storage, int64_t ld, const RowLimits& limits) {
  return ((limits.of(storage.rows) * ld + storage.extra) * kernels::operand_size_bytes(storage.operand) + 63) / 64 * 64;
}

}  // namespace

// Where other ranks read: a few regions behind all other values, of the size of the largest that lie there. A rank may
// write into a region again once a collective behind the one that read it has returned (comm/communicator.h); and ops
// that are left out of some steps count on none but those that are left out with them.
void lay_out_shared(const Plan& plan, const std::vector<int>& first, const std::vector<int>& last,
                    const std::vector<size_t>& size, Arena& arena) {
  struct Region {
    std::vector<int> storages;
    size_t bytes = 0;
    int read_by = -1;  // the last collective
    int used_by = -1;  // the last op of this rank
  };
  const auto always = [](const Op& op) { return !op.images_only && op.pass == Pass::any; };
  const auto runs_with = [&](const Op& a, const Op& b) {
    return always(a) || (a.images_only == b.images_only && a.pass == b.pass);
  };
  std::vector<Region> regions;
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    const Op& op = plan.ops[i];
    if (line_of(op) == Line::none || op.in.empty()) continue;
    const int storage = op.in[0].storage, written = first[storage];
    const auto free = [&](const Region& region) {
      if (std::ranges::find(region.storages, storage) != region.storages.end()) return true;  // read a second time
      if (region.used_by >= written) return false;
      for (int k = region.read_by + 1; k < written; ++k) {
        const Op &between = plan.ops[k], &reader = plan.ops[region.read_by];
        if (line_of(between) == line_of(reader) && runs_with(between, reader) && runs_with(between, op)) return true;
      }
      return false;
    };
    auto region = std::find_if(regions.begin(), regions.end(), free);
    if (region == regions.end()) region = regions.insert(regions.end(), Region{});
    region->storages.push_back(storage), region->read_by = i,
                                         region->used_by = std::max(region->used_by, last[storage]);
    region->bytes = std::max(region->bytes, size[storage]);
  }
  for (const Region& region : regions) {
    for (const int storage : region.storages) arena.offset[storage] = arena.bytes;
    arena.bytes += region.bytes;
  }
}

Arena lay_out(const Plan& plan, const RowLimits& limits) {
  const size_t count = plan.storages.size();
  std::vector<int> first(count, std::numeric_limits<int>::max()), last(count, -1);
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    const auto touch = [&](const Value& v) { first[v.storage] = std::min(first[v.storage], i), last[v.storage] = i; };
    for (const Value& in : plan.ops[i].in) touch(in);
    if (plan.ops[i].out) touch(*plan.ops[i].out);
  }
  for (const Value& result : plan.results()) last[result.storage] = static_cast<int>(plan.ops.size());
  if (plan.state.storage >= 0) first[plan.state.storage] = -1;  // what the last pass left is read by the next

  Arena arena{std::vector<size_t>(count), std::vector<int64_t>(count)};
  std::vector<int> order;
  std::vector<size_t> size(count);
  for (size_t s = 0; s < count; ++s) {
    const Storage& storage = plan.storages[s];
    const int64_t unit = storage.operand == Operand::int8 ? 64 : 16;  // slots of experts rely on the 16
    arena.ld[s] = (kernels::operand_row_elements(storage.operand, storage.cols) + unit - 1) / unit * unit;
    size[s] = storage_bytes(storage, arena.ld[s], limits);
    if (last[s] >= 0 && !storage.shared) order.push_back(static_cast<int>(s));
  }
  // Large values first; each takes the lowest place that no value living at the same time occupies.
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return size[a] > size[b]; });
  std::vector<int> placed;
  for (int s : order) {
    std::vector<std::pair<size_t, size_t>> taken;
    for (int other : placed)
      if (first[other] <= last[s] && first[s] <= last[other])
        taken.emplace_back(arena.offset[other], arena.offset[other] + size[other]);
    std::sort(taken.begin(), taken.end());
    size_t at = 0;
    for (const auto& [begin, end] : taken) {
      if (at + size[s] <= begin) break;
      at = std::max(at, end);
    }
    arena.offset[s] = at;
    arena.bytes = std::max(arena.bytes, at + size[s]);
    placed.push_back(s);
  }
  lay_out_shared(plan, first, last, size, arena);
  return arena;
}

std::vector<bool> find_barriers(const Plan& plan, const Arena& arena, const RowLimits& limits) {
  struct Access {
    Value value;
    bool write;
    std::optional<CacheRef> cache;  // in place of the value
  };
  const auto accesses = [&](const Op& op) {
    std::vector<Access> list;
    for (const Value& in : op.in) list.push_back({in, false, {}});
    if (op.out) list.push_back({*op.out, true, {}});
    if (const auto* append = std::get_if<AppendOp>(&op.kind)) list.push_back({{}, true, append->cache});
    if (const auto* attend = std::get_if<AttendOp>(&op.kind)) list.push_back({{}, false, attend->cache});
    if (std::holds_alternative<StatesOp>(op.kind) && plan.state.storage >= 0) list.push_back({plan.state, false, {}});
    return list;
  };
  const auto overlap = [&](const Value& a, const Value& b) {
    if (a.storage == b.storage) return a.first_col < b.first_col + b.cols && b.first_col < a.first_col + a.cols;
    const auto end = [&](int s) { return arena.offset[s] + storage_bytes(plan.storages[s], arena.ld[s], limits); };
    return arena.offset[a.storage] < end(b.storage) && arena.offset[b.storage] < end(a.storage);
  };
  const auto meet = [&](const Access& a, const Access& b) {
    if (a.cache && b.cache) return a.cache->same_group(*b.cache);
    return !a.cache && !b.cache && overlap(a.value, b.value);
  };
  std::vector<bool> barrier(plan.ops.size());
  std::vector<Access> open;  // since the last barrier
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const std::vector<Access> mine = accesses(plan.ops[i]);
    for (const Access& a : open)
      for (const Access& b : mine)
        if ((a.write || b.write) && meet(a, b)) barrier[i] = true;
    const bool waits = line_of(plan.ops[i]) != Line::none && !plan.ops[i].images_only && plan.ops[i].pass == Pass::any;
    if (waits) barrier[i] = false;  // it waits for all threads itself
    if (barrier[i] || waits) open.clear();
    open.insert(open.end(), mine.begin(), mine.end());
  }
  return barrier;
}

}  // namespace weft
