// An estimate of a deployment as text and as JSON.
#include <cstdarg>
#include <cstdio>

#include "deployment_estimate.h"
#include "plan_estimate.h"

namespace weft {

namespace {

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char line[320];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(line, sizeof line, pattern, values);
  va_end(values);
  return line;
}

std::string line(const char* what, const std::string& value, const char* formula) {
  return format("  %-38s %14s   %s\n", what, value.c_str(), formula);
}
std::string ms(double seconds) { return format("%.2f ms", seconds * 1e3); }
std::string percent(double part) { return format("%.1f %%", part * 100); }
std::string servers_of(int64_t count, int tp) {
  return std::to_string(count) + (tp > 1 ? format(" x %d ranks", tp) : "");
}

std::string first_token_lines(const DeploymentEstimate& e, const FirstToken& first) {
  const ServingTargets& targets = e.input.targets;
  return line("TTFT, mean", ms(first.mean_seconds), "") +
         line(format("TTFT, %g %% of requests", targets.ttft_quantile * 100).c_str(), ms(first.quantile_seconds),
              format("target %s", ms(targets.ttft_seconds).c_str()).c_str());
}

std::string generation_lines(const DeploymentEstimate& e, const GenerationState& g) {
  return line("a decode step", ms(g.step_seconds), "step(n)") +
         line("sequences on a server, mean", format("%.2f", g.sequences), "n = r E[O] TPOT(n) (Little)") +
         line("  at most", std::to_string(g.batch_limit), g.batch_limited_by.c_str()) +
         line("  of these taken", percent(g.slot_utilisation), "n / B") +
         line("  wait for one, mean", ms(g.slot_wait_seconds), "M/G/(servers x B), Allen-Cunneen") +
         line("TPOT, mean", ms(g.tpot_seconds),
              format("step(n) / (1 - r X(n)), target %s", ms(e.input.targets.tpot_seconds).c_str()).c_str()) +
         line("  longest between two tokens", ms(g.longest_gap_seconds), "a step with a chunk in it");
}

std::string prompt_lines(const PromptState& p, const char* service, const char* queue) {
  return line("a prompt, mean", ms(p.service_seconds), service) +
         line("  its squared variation", format("%.3f", p.scv), "") +
         line("  utilisation", percent(p.utilisation), "R E[S] / servers") +
         line("  wait, mean", ms(p.wait_seconds), queue);
}

std::string disaggregated_text(const DeploymentEstimate& e) {
  const DisaggregatedPlan& plan = e.disaggregated;
  const TransferState& t = plan.transfer;
  return "disaggregated:\n" + line("context servers", servers_of(plan.context.servers, e.context_tp), "") +
         "    limited by " + plan.context_limited_by + "\n" +
         line("generation servers", servers_of(plan.generation.servers, e.generation_tp), "") + "    limited by " +
         plan.generation_limited_by + "\n" +
         prompt_lines(plan.context, "S = sum over its chunks", "M/G/C, Allen-Cunneen") +
         line("KV cache of a prompt", format("%.4f GB", t.bytes / 1e9), "") +
         line("  its transfer", ms(t.seconds), "T = latency + bytes / network bandwidth") +
         line("  utilisation of a link out, in", percent(t.out_utilisation) + ", " + percent(t.in_utilisation),
              "R E[T] / servers") +
         line("  wait for both, mean", ms(t.wait_seconds), "M/G/1, Pollaczek-Khinchine") +
         line("the rest and the first token", ms(plan.rest_seconds), "1.5 step(n) + x(n)") +
         generation_lines(e, plan.generation) + first_token_lines(e, plan.first_token);
}

std::string aggregated_text(const DeploymentEstimate& e) {
  if (!e.aggregated) return "servers that do both: " + e.aggregated_problem + "\n";
  const AggregatedPlan& plan = *e.aggregated;
  return "servers that do both:\n" + line("servers", servers_of(plan.servers, e.both_tp), "") + "    limited by " +
         plan.limited_by + "\n" + prompt_lines(plan.prompts, "S' = sum of step(n) + x(n)", "M/G/N, Allen-Cunneen") +
         generation_lines(e, plan.generation) + first_token_lines(e, plan.first_token);
}

Json generation_json(const GenerationState& g) {
  return Json::object({{"sequences_per_server", g.sequences},
                       {"batch_limit", static_cast<long>(g.batch_limit)},
                       {"batch_limited_by", g.batch_limited_by},
                       {"step_seconds", g.step_seconds},
                       {"tpot_seconds", g.tpot_seconds},
                       {"longest_gap_seconds", g.longest_gap_seconds},
                       {"utilisation", g.slot_utilisation},
                       {"wait_seconds", g.slot_wait_seconds}});
}
Json prompt_json(const PromptState& p) {
  return Json::object({{"prompt_seconds", p.service_seconds},
                       {"squared_variation", p.scv},
                       {"utilisation", p.utilisation},
                       {"wait_seconds", p.wait_seconds}});
}
Json first_token_json(const FirstToken& first) {
  return Json::object({{"mean_seconds", first.mean_seconds}, {"percentile_seconds", first.quantile_seconds}});
}
// With what stands first in the objects of servers.
Json counted(Json object, int64_t servers, int tp, const std::string& limited_by) {
  object.set("servers", static_cast<long>(servers));
  object.set("ranks_per_server", tp);
  object.set("limited_by", limited_by);
  return object;
}

Json disaggregated_json(const DeploymentEstimate& e) {
  const DisaggregatedPlan& plan = e.disaggregated;
  const TransferState& t = plan.transfer;
  return Json::object(
      {{"context", counted(prompt_json(plan.context), plan.context.servers, e.context_tp, plan.context_limited_by)},
       {"transfer", Json::object({{"bytes", t.bytes},
                                  {"seconds", t.seconds},
                                  {"out_utilisation", t.out_utilisation},
                                  {"in_utilisation", t.in_utilisation},
                                  {"wait_seconds", t.wait_seconds}})},
       {"generation", counted(generation_json(plan.generation), plan.generation.servers, e.generation_tp,
                              plan.generation_limited_by)},
       {"rest_seconds", plan.rest_seconds},
       {"ttft", first_token_json(plan.first_token)}});
}

Json aggregated_json(const DeploymentEstimate& e) {
  if (!e.aggregated) return Json::object({{"problem", e.aggregated_problem}});
  const AggregatedPlan& plan = *e.aggregated;
  Json both = Json::object({{"prompts", prompt_json(plan.prompts)},
                            {"generation", generation_json(plan.generation)},
                            {"ttft", first_token_json(plan.first_token)}});
  return counted(std::move(both), plan.servers, e.both_tp, plan.limited_by);
}

}  // namespace

std::string deployment_text(const DeploymentEstimate& e) {
  std::string text = "Estimate; nothing of it is measured (docs/scale.md has the formulas).\n";
  text += format("requests: %g a second, %.1f tokens in and %.1f out on average (%zu %s), %.0f %% of a prompt cached\n",
                 e.input.request_rate, e.mean_input, e.mean_output, e.input.classes.size(),
                 e.input.classes.size() == 1 ? "kind" : "kinds", e.input.cached_share * 100);
  text += format("machine: %g GB/s of memory and %g TFLOP/s for each rank, %g GB/s and %g us between servers\n\n",
                 e.machine.memory_bytes / 1e9, e.machine.flops / 1e12, e.machine.network_bytes / 1e9,
                 e.machine.network_latency * 1e6);
  return text + disaggregated_text(e) + "\n" + aggregated_text(e);
}

Json deployment_json(const DeploymentEstimate& e) {
  const ServingTargets& targets = e.input.targets;
  return Json::object({{"requests", Json::object({{"per_second", e.input.request_rate},
                                                  {"input_tokens", e.mean_input},
                                                  {"output_tokens", e.mean_output},
                                                  {"cached_share", e.input.cached_share}})},
                       {"targets", Json::object({{"ttft_seconds", targets.ttft_seconds},
                                                 {"ttft_percentile", targets.ttft_quantile * 100},
                                                 {"tpot_seconds", targets.tpot_seconds}})},
                       {"machine", machine_json(e.machine)},
                       {"disaggregated", disaggregated_json(e)},
                       {"aggregated", aggregated_json(e)}});
}

}  // namespace weft
