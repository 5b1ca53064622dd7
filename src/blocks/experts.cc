// Mixture of experts, see blocks.h.
#include "blocks/blocks.h"

namespace weft::blocks {
namespace {

// Expert e's gate and up projections stacked, and its down projection.
Matrix expert_in(Scope w, int e, const ExpertsOptions& o) {
  if (!o.fused)
    return {.sources = {whole(w / "experts" / e / o.gate, o.width), whole(w / "experts" / e / o.up, o.width)},
            .k = o.hidden};
  const std::vector<int64_t> shape{o.rule.experts, o.hidden, 2 * o.width};
  return {.sources = {{(w / "experts" / "gate_up_proj").path(), int64_t{e} * o.hidden, 2 * o.width, shape, true}},
          .k = o.hidden};
}

Matrix expert_out(Scope w, int e, const ExpertsOptions& o) {
  if (!o.fused) return {.sources = {whole(w / "experts" / e / o.down, o.hidden)}, .k = o.width};
  const std::vector<int64_t> shape{o.rule.experts, o.width, o.hidden};
  return {.sources = {{(w / "experts" / "down_proj").path(), int64_t{e} * o.width, o.hidden, shape, true}},
          .k = o.width};
}

}  // namespace

Value experts(PlanBuilder& b, Scope w, Value x, const ExpertsOptions& o) {
  const PlanBuilder::Module inside(b, w);
  const int slots = o.rule.chosen;
  const Value logits =
      b.linear(x, {.sources = {whole(w / o.router, o.rule.experts)}, .k = o.hidden, .keep_float32 = true});
  const Value chosen = b.route(logits, o.rule, o.choice_bias ? w / o.router / "e_score_correction_bias" : Scope());
  const Value grouped = b.group_rows(chosen, o.rule.experts, slots);

  std::vector<Matrix> in, out;
  for (int e = 0; e < o.rule.experts; ++e) in.push_back(expert_in(w, e, o)), out.push_back(expert_out(w, e, o));
  const Value input = o.scale_input ? b.scale_rows(x, chosen, slots) : x;
  const Value wide = b.experts(input, grouped, std::move(in), slots, !o.scale_input);
  const Value narrow = b.activate_slots(wide, o.act, o.width, slots);
  const Value sum = b.combine(b.experts(narrow, grouped, std::move(out), slots, false), chosen, o.rule.experts,
                              o.hidden, slots, !o.scale_input);
  if (o.shared_width == 0) return sum;
  return b.add(sum, gated_mlp(b, w / o.shared, x, {.hidden = o.hidden, .width = o.shared_width, .act = o.act}));
}

}  // namespace weft::blocks
