#include "plan_estimate.h"

#include <algorithm>

#include "plan/split.h"
#include "terminal.h"

namespace weft {

MachineModel machine_of(const EstimateArguments& o) {
  return {.memory_bytes = o.memory_gbps * 1e9,
          .flops = o.tflops * 1e12,
          .network_bytes = o.network_gbps * 1e9,
          .network_latency = o.network_latency_us * 1e-6};
}

namespace {

Result<RankPlaces> places_of(const EngineOptions& engine, int nodes) {
  const RankLayout layout = rank_layout(engine);
  if (layout.size() % nodes != 0)
    return fail(Code::invalid_argument, "--nodes ", nodes, " does not divide the ", layout.size(), " ranks (",
                layout.tensor, " in each of ", layout.pipeline, " stages): every node has as many")
        .about("nodes");
  return RankPlaces{layout, nodes};
}

// "rank 0 of 8: stage 1 of 2 (layers 0 to 30), share 1 of 4", and its ops.
std::string ops_of(const RecordedPlan& recorded, const Plan& share, const Estimate& e) {
  const RankLayout& layout = e.places.layout;
  const std::string text = plan_to_text(recorded.prepared(share), recorded.form);
  if (layout.single()) return text;
  return "rank 0 of " + std::to_string(layout.size()) + ": stage 1 of " + std::to_string(layout.pipeline) +
         " (layers 0 to " + std::to_string(e.stages.front().second - 1) + "), share 1 of " +
         std::to_string(layout.tensor) + "\n" + text;
}

void sum_up(StepEstimate& step, const RankLayout& layout) {
  for (int stage = 0; stage < layout.pipeline; ++stage) {
    int slowest = stage * layout.tensor;
    for (int rank = slowest; rank < (stage + 1) * layout.tensor; ++rank) {
      step.sent += step.ranks[static_cast<size_t>(rank)].sent();
      if (step.ranks[static_cast<size_t>(rank)].seconds() > step.ranks[static_cast<size_t>(slowest)].seconds())
        slowest = rank;
    }
    const double seconds = step.ranks[static_cast<size_t>(slowest)].seconds();
    step.slowest.push_back(slowest);
    step.seconds += seconds, step.stage_seconds = std::max(step.stage_seconds, seconds);
  }
}

}  // namespace

Result<Estimate> make_estimate(const RecordedPlan& recorded, const EngineOptions& engine,
                               const EstimateArguments& options) {
  Estimate e;
  e.machine = machine_of(options);
  WEFT_TRY(e.places, places_of(engine, options.nodes));
  const RankLayout& layout = e.places.layout;
  e.decode = {.name = "decode", .shape = {options.batch_size, 1, options.context_tokens}};
  e.prompt = {.name = "prompt", .shape = {layout.homes(), options.prompt_tokens, options.prompt_tokens}};
  for (int rank = 0; rank < layout.size(); ++rank) {
    WEFT_TRY(const Plan share, split_plan(recorded.plan, layout, rank));
    if (rank % layout.tensor == 0) e.stages.push_back(layers_of(share));
    if (rank == 0 && !options.summary) e.ops = ops_of(recorded, share, e);
    e.held.push_back(held_bytes(share, recorded.form, recorded.cache));
    for (StepEstimate* step : {&e.decode, &e.prompt})
      step->ranks.push_back(step_cost(share, e.places, rank, step->shape, e.machine, recorded.form, recorded.cache));
  }
  for (StepEstimate* step : {&e.decode, &e.prompt}) sum_up(*step, layout);
  return e;
}

Status estimate_plan(const Arguments& arguments) {
  EstimateArguments options = arguments.estimate;
  if (arguments.json) options.summary = true;
  WEFT_TRY(const RecordedPlan recorded, record_plan(arguments.model, arguments.engine));
  WEFT_TRY(const Estimate estimate, make_estimate(recorded, arguments.engine, options));
  if (arguments.json) print_out(report_json(estimate).dump() + "\n");
  else print_out(estimate.ops + (options.summary ? "" : "\n") + report_text(estimate));
  return {};
}

}  // namespace weft
