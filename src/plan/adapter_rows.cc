// What CpuExecutor does for adapters: the products of each adapter over the rows that have it.
#include <algorithm>

#include "base/check.h"
#include "kernels/layout.h"
#include "plan/adapter_table.h"
#include "plan/cpu_executor.h"

namespace weft {

using namespace kernels;

namespace {

// Rows of a task of A: with few columns, threads share the rows of long prompts.
constexpr int kTaskRows = 32;

// The entries of an expert are in order of rows, so those of one adapter lie together as its rows do in the step.
template <class Visit>
void each_run(const int32_t* entries, int count, int slots, const std::vector<int32_t>& adapter_of, Visit visit) {
  const auto adapter = [&](int i) { return adapter_of[static_cast<size_t>(entries[i] / slots)]; };
  for (int first = 0, last = 0; first < count; first = last) {
    for (last = first + 1; last < count && adapter(last) == adapter(first); ++last) {
    }
    if (adapter(first) >= 0) visit(adapter(first), entries + first, last - first);
  }
}

}  // namespace

// Calls visit(factors, row map, rows) for each adapter with factors for a product of the op, in the same order on all
// threads. The row maps of experts have their slots.
template <class Visit>
void CpuExecutor::each_adapter(const AdapterCall& call, Visit visit) const {
  const StepInputs& in = memory_.inputs();
  const auto site = [&](int adapter, int number) -> const AdapterWeights::Site& {
    const LoadedAdapter& loaded = adapters_->at(adapter);
    const AdapterWeights& weights =
        adapter_place_ < 0 ? *loaded.alone : loaded.ranks[static_cast<size_t>(adapter_place_)];
    return weights.sites[static_cast<size_t>(number)];
  };
  const auto visit_site = [&](int adapter, int number, const int32_t* rows, int count) {
    const AdapterWeights::Site& factors = site(adapter, number);
    if (factors.a.data) visit(factors, rows, count);
  };
  if (!call.op->experts) {
    for (const StepInputs::AdapterGroup& group : in.adapter_groups)
      visit_site(group.adapter, call.op->site, in.adapter_rows.data() + group.first, group.count);
    return;
  }
  const std::vector<int32_t>& adapter_of = call.rows == Rows::gathered ? in.gathered_adapters : in.adapter_of;
  const int32_t* offsets = call.grouped + call.op->first_expert;
  const int32_t* entries = call.grouped + call.op->experts_in_all + 1;
  for (int e = 0; e < call.op->expert_count; ++e)
    each_run(entries + offsets[e], offsets[e + 1] - offsets[e], call.op->slots, adapter_of,
             [&](int adapter, const int32_t* rows, int count) { visit_site(adapter, call.op->site + e, rows, count); });
}

// Panels and rows are dealt out in turn, over all adapters: few columns leave little to share in one of them. Where
// there are many adapters, all panels of one go together, which are read side by side.
void CpuExecutor::run_adapter_in(const AdapterInCall& call, Part part) const {
  const bool whole =
      !call.op->experts && memory_.inputs().adapter_groups.size() >= size_t{4} * static_cast<size_t>(part.count);
  int64_t task = 0;
  each_adapter(call, [&](const AdapterWeights::Site& site, const int32_t* rows, int count) {
    LinearArgs args = call.linear;
    const int columns = whole ? site.a.out : site.a.panel;
    for (int column = 0; column < site.a.out; column += columns)
      for (int row = 0; row < count; row += kTaskRows, ++task) {
        if (task % part.count != part.index) continue;
        args.w = site.a, args.w.out = std::min(columns, site.a.out - column);
        args.w.data += static_cast<size_t>(column / site.a.panel) * site.a.panel_bytes;
        args.y = call.linear.y + column, args.row_map = rows + row;
        table_.run(args, std::min(kTaskRows, count - row), {0, 1});
      }
  });
}

void CpuExecutor::run_adapter_out(const AdapterOutCall& call, Part part) const {
  each_adapter(call, [&](const AdapterWeights::Site& site, const int32_t* rows, int count) {
    LinearArgs args = call.linear;
    args.row_map = rows;
    std::byte* operands = nullptr;
    if (call.op->operand != Operand::f32) {  // each thread for itself, which saves a barrier
      operands = memory_.scratch(part.index);
      const size_t row_bytes =
          static_cast<size_t>(args.ld_x) * static_cast<size_t>(operand_size_bytes(call.op->operand));
      for (int r = 0; r < count; ++r)
        table_.run(ToOperandArgs{static_cast<const float*>(args.x) + rows[r] * args.ld_x, args.ld_x, site.a.out,
                                 call.op->operand, operands + static_cast<size_t>(rows[r]) * row_bytes, args.ld_x},
                   1, {0, 1});
      args.x = operands;
    }
    for (const AdapterWeights::Product& product : site.products) {
      LinearArgs one = args;
      one.x = static_cast<const std::byte*>(args.x) + product.from * operand_size_bytes(call.op->operand);
      one.w = product.b, one.y = args.y + product.to, one.residual = one.y;
      table_.run(one, count, part);
    }
  });
}

}  // namespace weft
