// An estimate as text and as JSON.
#include <cstdarg>
#include <cstdio>

#include "plan_estimate.h"

namespace weft {

namespace {

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char line[256];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(line, sizeof line, pattern, values);
  va_end(values);
  return line;
}

// "0-3", or "0".
std::string range_text(int first, int last) {
  return first == last ? std::to_string(first) : std::to_string(first) + "-" + std::to_string(last);
}

int stage_of_rank(const Estimate& e, int rank) { return rank / e.places.layout.tensor; }

// Of the sequences of all steps that are under way.
double cache_held(const Estimate& e, int rank) {
  return e.decode.ranks[static_cast<size_t>(rank)].cache_bytes * e.places.layout.pipeline;
}

std::string formats_text(const HeldBytes& held) {
  std::string text;
  for (const auto& [form, bytes] : held.weights)
    text += (text.empty() ? "" : ", ") + form + format(" %.3f", static_cast<double>(bytes) / 1e9);
  return text;
}

std::string rank_line(const Estimate& e, int first, int last) {
  const HeldBytes& held = e.held[static_cast<size_t>(first)];
  const LayerRange& layers = e.stages[static_cast<size_t>(stage_of_rank(e, first))];
  const double weights = static_cast<double>(held.weight_bytes()) / 1e9, cache = cache_held(e, first) / 1e9;
  return format("  %-8s %-6s %-8s %10.3f %14lld %10.3f %10.3f   %s\n", range_text(first, last).c_str(),
                range_text(e.places.node(first), e.places.node(last)).c_str(),
                range_text(layers.first, layers.second - 1).c_str(), weights,
                static_cast<long long>(held.cache_per_token), cache, weights + cache, formats_text(held).c_str());
}

// Ranks in turn that are alike share a line.
std::string ranks_text(const Estimate& e) {
  std::string text =
      "  ranks    nodes  layers   weights GB  KV bytes/token      KV GB     all GB   weights GB by form\n";
  const auto alike = [&](int a, int b) {
    const HeldBytes &one = e.held[static_cast<size_t>(a)], &other = e.held[static_cast<size_t>(b)];
    return stage_of_rank(e, a) == stage_of_rank(e, b) && one.weights == other.weights &&
           one.cache_per_token == other.cache_per_token;
  };
  for (int first = 0, last = 0; first < e.places.layout.size(); first = last + 1) {
    for (last = first; last + 1 < e.places.layout.size() && alike(first, last + 1);) ++last;
    text += rank_line(e, first, last);
  }
  return text;
}

std::string traffic_line(const char* name, const Traffic& t, double layers) {
  return format("    %-15s %9lld %14lld %11lld %14lld %7lld %12.1f %14.0f\n", name, static_cast<long long>(t.messages),
                static_cast<long long>(t.bytes), static_cast<long long>(t.network_messages),
                static_cast<long long>(t.network_bytes), static_cast<long long>(t.network_rounds),
                static_cast<double>(t.messages) / layers, static_cast<double>(t.bytes) / layers);
}

// Of the slowest rank of every stage, added up: what a step waits for.
std::string traffic_text(const Estimate& e, const StepEstimate& step) {
  std::map<std::string, Traffic> traffic;
  for (const int rank : step.slowest)
    for (const auto& [name, sent] : step.ranks[static_cast<size_t>(rank)].traffic) traffic[name] += sent;
  if (traffic.empty()) return "";
  const int layers = e.stages.back().second;
  std::string text =
      "    messages of     one rank of every stage:    of them between nodes:                  on average a layer:\n"
      "    a step           messages          bytes    messages          bytes  rounds     messages          bytes\n";
  Traffic all;
  for (const auto& [name, sent] : traffic) text += traffic_line(name.c_str(), sent, layers), all += sent;
  return text + traffic_line("together", all, layers) +
         format("    %-15s %9lld %14lld %11lld %14lld\n", "of all ranks", static_cast<long long>(step.sent.messages),
                static_cast<long long>(step.sent.bytes), static_cast<long long>(step.sent.network_messages),
                static_cast<long long>(step.sent.network_bytes));
}

std::string stages_text(const Estimate& e, const StepEstimate& step) {
  std::string text =
      "    stage layers    weights GB   cache GB     GFLOP  products ms  messages ms  (hidden)   of its slowest rank\n";
  for (size_t s = 0; s < e.stages.size(); ++s) {
    const StepCost& cost = step.ranks[static_cast<size_t>(step.slowest[s])];
    text += format("    %5zu %-8s %11.3f %10.3f %9.1f %12.3f %12.3f %9.3f   %d\n", s + 1,
                   range_text(e.stages[s].first, e.stages[s].second - 1).c_str(), cost.weight_bytes / 1e9,
                   cost.cache_bytes / 1e9, cost.flops / 1e9, cost.compute_seconds * 1e3, cost.message_seconds * 1e3,
                   cost.hidden_seconds * 1e3, step.slowest[s]);
  }
  return text;
}

std::string step_text(const Estimate& e, const StepEstimate& step, const std::string& title) {
  const auto tokens = static_cast<double>(step.tokens());
  std::string text =
      title + format(": estimated %.3f ms a step, %.2f tokens/s", step.seconds * 1e3, tokens / step.stage_seconds);
  if (e.stages.size() > 1)
    text += format(" with %zu such steps under way, %.2f with one", e.stages.size(), tokens / step.seconds);
  return text + "\n" + stages_text(e, step) + traffic_text(e, step);
}

Json traffic_json(const Traffic& t) {
  return Json::object({{"messages", static_cast<long>(t.messages)},
                       {"bytes", static_cast<long>(t.bytes)},
                       {"network_messages", static_cast<long>(t.network_messages)},
                       {"network_bytes", static_cast<long>(t.network_bytes)},
                       {"network_rounds", static_cast<long>(t.network_rounds)}});
}

Json cost_json(const StepCost& cost) {
  Json traffic = Json::object();
  for (const auto& [name, sent] : cost.traffic) traffic.set(name, traffic_json(sent));
  return Json::object({{"weight_bytes", cost.weight_bytes},
                       {"cache_bytes", cost.cache_bytes},
                       {"flops", cost.flops},
                       {"product_seconds", cost.compute_seconds},
                       {"message_seconds", cost.message_seconds},
                       {"hidden_seconds", cost.hidden_seconds},
                       {"traffic", std::move(traffic)},
                       {"sent", traffic_json(cost.sent())}});
}

Json step_json(const Estimate& e, const StepEstimate& step) {
  Json stages = Json::array();
  for (const int rank : step.slowest) {
    Json stage = cost_json(step.ranks[static_cast<size_t>(rank)]);
    stage.set("rank", rank);
    stages.push_back(std::move(stage));
  }
  return Json::object({{"sequences", static_cast<long>(step.shape.sequences)},
                       {"rows", static_cast<long>(step.shape.rows)},
                       {"context", static_cast<long>(step.shape.context)},
                       {"seconds", step.seconds},
                       {"steps_under_way", e.places.layout.pipeline},
                       {"tokens_per_second", static_cast<double>(step.tokens()) / step.stage_seconds},
                       {"slowest_ranks", std::move(stages)},
                       {"sent", traffic_json(step.sent)}});
}

Json rank_json(const Estimate& e, int rank) {
  const HeldBytes& held = e.held[static_cast<size_t>(rank)];
  const auto stage = static_cast<size_t>(stage_of_rank(e, rank));
  Json forms = Json::object();
  for (const auto& [form, bytes] : held.weights) forms.set(form, static_cast<long>(bytes));
  return Json::object({{"rank", rank},
                       {"node", e.places.node(rank)},
                       {"stage", static_cast<long>(stage)},
                       {"first_layer", e.stages[stage].first},
                       {"layers", e.stages[stage].second - e.stages[stage].first},
                       {"weight_bytes", static_cast<long>(held.weight_bytes())},
                       {"weight_bytes_by_form", std::move(forms)},
                       {"kv_bytes_per_token", static_cast<long>(held.cache_per_token)},
                       {"kv_bytes", cache_held(e, rank)}});
}

}  // namespace

Json machine_json(const MachineModel& machine) {
  return Json::object({{"memory_bytes_per_second", machine.memory_bytes},
                       {"flops_per_second", machine.flops},
                       {"network_bytes_per_second", machine.network_bytes},
                       {"network_latency_seconds", machine.network_latency}});
}

std::string report_text(const Estimate& e) {
  const RankLayout& layout = e.places.layout;
  std::string text = "Estimate; nothing of it is measured (docs/scale.md has the formulas).\n";
  text += format("layout: %d ranks on %d nodes, %d in each of %d stages, attention data parallelism %s\n",
                 layout.size(), e.places.nodes, layout.tensor, layout.pipeline, layout.attention_dp ? "on" : "off");
  text += format("machine: %g GB/s of memory and %g TFLOP/s for each rank, %g GB/s and %g us between nodes\n",
                 e.machine.memory_bytes / 1e9, e.machine.flops / 1e12, e.machine.network_bytes / 1e9,
                 e.machine.network_latency * 1e6);
  text += "\n" + ranks_text(e);
  text += "\n" + step_text(e, e.decode,
                           format("decode of %lld sequences that see %lld tokens",
                                  static_cast<long long>(e.decode.shape.sequences),
                                  static_cast<long long>(e.decode.shape.context)));
  text += "\n" + step_text(e, e.prompt,
                           format("prompts, the first %lld tokens of %lld", static_cast<long long>(e.prompt.shape.rows),
                                  static_cast<long long>(e.prompt.shape.sequences)));
  return text;
}

Json report_json(const Estimate& e) {
  const RankLayout& layout = e.places.layout;
  Json ranks = Json::array();
  for (int rank = 0; rank < layout.size(); ++rank) ranks.push_back(rank_json(e, rank));
  return Json::object({{"layout", Json::object({{"ranks", layout.size()},
                                                {"nodes", e.places.nodes},
                                                {"stages", layout.pipeline},
                                                {"ranks_per_stage", layout.tensor},
                                                {"attention_dp", layout.attention_dp}})},
                       {"machine", machine_json(e.machine)},
                       {"ranks", std::move(ranks)},
                       {"decode", step_json(e, e.decode)},
                       {"prompt", step_json(e, e.prompt)}});
}

}  // namespace weft
