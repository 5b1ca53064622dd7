#include "deployment_estimate.h"

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>

#include "arrival_mix.h"
#include "plan/split.h"
#include "plan_estimate.h"
#include "terminal.h"

namespace weft {

namespace {

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g GB", bytes / 1e9);
  return text;
}

// What steps take on a server of so many ranks, each step estimated once.
class ServerCosts {
 public:
  static Result<std::shared_ptr<ServerCosts>> make(const RecordedPlan& recorded, const RankLayout& layout,
                                                   const MachineModel& machine) {
    auto costs = std::make_shared<ServerCosts>(recorded, layout, machine);
    for (int rank = 0; rank < layout.size(); ++rank) {
      WEFT_TRY(costs->shares_.emplace_back(), split_plan(recorded.plan, layout, rank));
    }
    return costs;
  }
  ServerCosts(const RecordedPlan& recorded, const RankLayout& layout, const MachineModel& machine)
      : recorded_(recorded), places_{layout, 1}, machine_(machine) {}

  // At the slowest rank.
  StepTime time(const StepShape& shape) {
    const auto key = std::tuple(shape.sequences, shape.rows, shape.context);
    if (const auto found = times_.find(key); found != times_.end()) return found->second;
    StepTime slowest;
    for (int rank = 0; rank < places_.layout.size(); ++rank) {
      const StepCost cost = this->cost(rank, shape);
      if (cost.seconds() > slowest.seconds)
        slowest = {cost.seconds(), std::min(cost.weight_bytes / machine_.memory_bytes, cost.seconds())};
    }
    return times_[key] = slowest;
  }

  // What the fullest rank holds: weights, and the cache of a sequence of so many tokens.
  std::pair<double, double> held(int64_t tokens) const {
    double weights = 0, cache = 0;
    for (int rank = 0; rank < places_.layout.size(); ++rank) {
      const Plan& share = shares_[static_cast<size_t>(rank)];
      weights =
          std::max(weights, static_cast<double>(held_bytes(share, recorded_.form, recorded_.cache).weight_bytes()));
      cache = std::max(cache, cost(rank, {1, 1, tokens}).cache_bytes);
    }
    return {weights, cache};
  }
  int ranks() const { return places_.layout.size(); }

 private:
  StepCost cost(int rank, const StepShape& shape) const {
    return step_cost(shares_[static_cast<size_t>(rank)], places_, rank, shape, machine_, recorded_.form,
                     recorded_.cache);
  }
  const RecordedPlan& recorded_;
  const RankPlaces places_;
  const MachineModel machine_;
  std::vector<Plan> shares_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, StepTime> times_;
};

// As the loading of a model chooses it (api/load.cc, prefill_tokens()).
constexpr int64_t kPrefillTokens = 512;
int64_t chunk_tokens(const EngineOptions& options, const Plan& plan) {
  if (!options.enable_chunked_prefill) return options.max_num_tokens;
  if (options.chunked_prefill_size > 0) return options.chunked_prefill_size;
  const bool experts =
      std::ranges::any_of(plan.ops, [](const Op& op) { return std::holds_alternative<ExpertsOp>(op.kind); });
  return experts ? options.max_num_tokens : kPrefillTokens;
}

ServerModel server_model(const std::shared_ptr<ServerCosts>& costs, const std::string& name, int64_t context,
                         const Arguments& arguments, int64_t chunk, double kv_bytes) {
  const auto [weights, sequence] = costs->held(context);
  const double memory = arguments.estimate.memory_gb * 1e9;
  ServerModel server{
      .name = name + " of " + std::to_string(costs->ranks()) + (costs->ranks() == 1 ? " rank" : " ranks"),
      .ranks = costs->ranks(),
      .decode = [costs, context](int64_t n) { return costs->time({n, 1, context}); },
      .chunk = [costs](int64_t rows, int64_t seen) { return costs->time({1, rows, seen}); },
      .chunk_tokens = chunk};
  server.sequences_in_memory = static_cast<int64_t>(std::max(0.0, (memory - weights) / sequence));
  server.memory_limit = "--memory " + gigabytes(memory) + " a rank, " + gigabytes(weights) + " of weights, " +
                        gigabytes(sequence) + " of cache a sequence";
  const auto budget = static_cast<double>(arguments.engine.kv_cache_memory);
  if (budget > 0 && budget / kv_bytes < static_cast<double>(server.sequences_in_memory)) {
    server.sequences_in_memory = static_cast<int64_t>(budget / kv_bytes);
    server.memory_limit = "--kv-cache-memory " + gigabytes(budget) + ", " + gigabytes(kv_bytes) + " a sequence";
  }
  return server;
}

Result<std::vector<RequestClass>> requests_of(const EstimateArguments& o) {
  if (!o.arrival_mix.empty()) return read_arrival_mix(o.arrival_mix);
  WEFT_TRY(const TokenLengths input, parse_lengths(o.input_tokens));
  WEFT_TRY(const TokenLengths output, parse_lengths(o.output_tokens));
  return classes_of(input, output);
}

Status check_options(const Arguments& arguments) {
  const EstimateArguments& o = arguments.estimate;
  const auto missing = [](const char* option, const char* what) {
    return fail(Code::invalid_argument, "--disaggregated needs ", option, ", ", what);
  };
  if (o.request_rate == 0) return missing("--request-rate", "requests a second");
  if (arguments.engine.ttft_target_ms == 0) return missing("--ttft-target-ms", "the time to the first token");
  if (o.tpot_target_ms == 0) return missing("--tpot-target-ms", "the time of each further token");
  if (o.arrival_mix.empty() && (o.input_tokens.empty() || o.output_tokens.empty()))
    return missing("--input-tokens and --output-tokens, or --arrival-mix", "the requests' lengths");
  if (!arguments.engine.speculative_config.empty())
    return fail(Code::unsupported, "--disaggregated does not estimate drafts: leave out --speculative-config");
  if (arguments.engine.pp_size != 1 || arguments.engine.enable_attention_dp)
    return fail(Code::unsupported,
                "--disaggregated counts servers whose ranks share each layer (--tp-size): not those with --pp-size or "
                "--enable-attention-dp");
  return {};
}

}  // namespace

Result<DeploymentEstimate> make_deployment_estimate(const RecordedPlan& recorded, const Arguments& arguments) {
  WEFT_RETURN_IF_ERROR(check_options(arguments));
  const EstimateArguments& o = arguments.estimate;
  const EngineOptions& engine = arguments.engine;
  DeploymentEstimate e;
  e.machine = machine_of(o);
  DeploymentInput& input = e.input;
  WEFT_TRY(input.classes, requests_of(o));
  for (const RequestClass& c : input.classes) {
    e.mean_input += c.share * static_cast<double>(c.input_tokens);
    e.mean_output += c.share * static_cast<double>(c.output_tokens);
  }
  input.request_rate = o.request_rate, input.cached_share = o.cached_share;
  input.block_tokens = engine.tokens_per_block, input.max_batch_size = engine.max_batch_size;
  input.network_bytes = e.machine.network_bytes, input.network_latency = e.machine.network_latency;
  input.targets = {engine.ttft_target_ms * 1e-3, o.tpot_target_ms * 1e-3, o.ttft_percentile / 100};

  std::map<int, std::shared_ptr<ServerCosts>> made;  // by ranks
  const auto costs_of = [&](int tp) -> Result<std::shared_ptr<ServerCosts>> {
    if (const auto found = made.find(tp); found != made.end()) return found->second;
    EngineOptions with = engine;
    with.tp_size = tp;
    WEFT_TRY(made[tp], ServerCosts::make(recorded, rank_layout(with), e.machine));
    return made[tp];
  };
  e.both_tp = engine.tp_size;
  e.context_tp = o.context_tp > 0 ? o.context_tp : engine.tp_size;
  e.generation_tp = o.generation_tp > 0 ? o.generation_tp : engine.tp_size;
  WEFT_TRY(const auto whole, costs_of(1));
  input.kv_bytes = [whole](int64_t tokens) { return whole->held(tokens).second; };
  const int64_t context = decode_context(input.classes), chunk = chunk_tokens(engine, recorded.plan);
  for (const auto& [server, name, tp] : {std::tuple(&input.context, "a context server", e.context_tp),
                                         std::tuple(&input.generation, "a generation server", e.generation_tp),
                                         std::tuple(&input.both, "a server", e.both_tp)}) {
    WEFT_TRY(const auto costs, costs_of(tp));
    *server = server_model(costs, name, context, arguments, chunk, input.kv_bytes(context));
  }
  if (input.context.sequences_in_memory < 1)
    return fail(Code::resource_exhausted, input.context.name, " does not hold one sequence (",
                input.context.memory_limit, ")");
  WEFT_TRY(e.disaggregated, plan_disaggregated(input));
  auto aggregated = plan_aggregated(input);
  if (aggregated.ok()) e.aggregated = std::move(*aggregated);
  else e.aggregated_problem = aggregated.error().message();
  return e;
}

Status estimate_deployment(const Arguments& arguments) {
  WEFT_TRY(const RecordedPlan recorded, record_plan(arguments.model, arguments.engine));
  WEFT_TRY(const DeploymentEstimate estimate, make_deployment_estimate(recorded, arguments));
  print_out(arguments.json ? deployment_json(estimate).dump() + "\n" : deployment_text(estimate));
  return {};
}

}  // namespace weft
