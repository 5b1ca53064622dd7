// `weft bench --details`: what the engine adds around the model. Four numbers, each from requests like a server's:
// - the device's idle gap per step: batch 16, a JSON grammar and logprobs for each, the overlap scheduler on and off
// - time to the first token of a 2,000-token prompt, cold and again from the cache
// - the sampler's share of a decode step: batch 32, mixed parameters
// - time to fill a grammar mask: median and 99th percentile
#include <algorithm>
#include <cstdio>

#include "bench_prompts.h"
#include "bench_run.h"
#include "terminal.h"

namespace weft {

namespace {

// What the metrics counted between two looks at them.
struct Interval {
  explicit Interval(const Engine& engine) : engine(engine), before(engine.metrics().core) {}
  // Microseconds per step of a sum of seconds.
  double us_per_step(double CoreMetrics::*seconds) const {
    const CoreMetrics now = engine.metrics().core;
    const auto steps = static_cast<double>(now.scheduler.steps - before.scheduler.steps);
    return (now.*seconds - before.*seconds) / std::max(1.0, steps) * 1e6;
  }
  double gap_us() const { return us_per_step(&CoreMetrics::idle_gap_seconds); }
  double step_us() const { return us_per_step(&CoreMetrics::step_seconds); }
  double sample_us() const { return us_per_step(&CoreMetrics::sample_seconds); }
  const Engine& engine;
  const CoreMetrics before;
};

std::vector<Request> guided_requests(Prompts& prompts, int count, int output_tokens) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request& request = requests.emplace_back();
    request.prompt_token_ids = prompts.next(32);
    request.max_tokens = output_tokens, request.seed = static_cast<uint64_t>(i);
    request.sampling.logprobs = 5;
    request.guide.kind = GuideSpec::Kind::json_schema;
    request.guide.text =
        R"({"type":"object","properties":{"name":{"type":"string"},"tags":{"type":"array","items":{"type":"string"}},)"
        R"("size":{"type":"number"}},"required":["name","tags","size"]})";
  }
  return requests;
}

// A filter, a penalty, and both, in turn.
std::vector<Request> mixed_requests(Prompts& prompts, int count, int output_tokens) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request& request = requests.emplace_back();
    request.prompt_token_ids = prompts.next(32);
    request.max_tokens = output_tokens, request.seed = static_cast<uint64_t>(i);
    SamplingParams& s = request.sampling;
    s.ignore_eos = true, s.temperature = 0.8f;
    if (i % 4 == 0) s.temperature = 0;
    if (i % 4 == 1) s.top_p = 0.9f, s.presence_penalty = 0.5f;
    if (i % 4 == 2) s.top_k = 40, s.min_p = 0.05f;
    if (i % 4 == 3) s.repetition_penalty = 1.1f, s.top_p = 0.95f;
  }
  return requests;
}

// The gaps in microseconds per step, with mask times where the engine has overlap on.
Status measure_gaps(const Arguments& arguments, const EngineLoader& load, Json& report) {
  for (const bool overlap : {false, true}) {
    Arguments changed = arguments;
    changed.engine.overlap_scheduler = overlap;
    WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(changed, load));
    Prompts prompts(engine->info().vocab_size);
    WEFT_RETURN_IF_ERROR(run_together(*engine, guided_requests(prompts, 16, 8)));
    const Interval interval(*engine);
    WEFT_RETURN_IF_ERROR(run_together(*engine, guided_requests(prompts, 16, arguments.output_tokens)));
    report.set(overlap ? "gap_us_overlap_on" : "gap_us_overlap_off", interval.gap_us());
    report.set(overlap ? "step_us_overlap_on" : "step_us_overlap_off", interval.step_us());
    if (!overlap) continue;
    report.set("mask_us_p50", engine->metrics().core.mask_p50_seconds * 1e6);
    report.set("mask_us_p99", engine->metrics().core.mask_p99_seconds * 1e6);
  }
  return {};
}

Status measure_first_token(Engine& engine, Prompts& prompts, Json& report) {
  const int tokens = std::min(2000, engine.info().max_seq_len - 2);
  std::vector<Request> one(1);
  one[0].prompt_token_ids = prompts.next(tokens);
  one[0].max_tokens = 1, one[0].sampling.temperature = 0;
  WEFT_TRY(const RunTimes cold, run_together(engine, one));
  WEFT_TRY(const RunTimes cached, run_together(engine, one));
  report.set("first_token_prompt_tokens", tokens);
  report.set("first_token_cold_ms", cold.streams[0].first_token * 1e3);
  report.set("first_token_cached_ms", cached.streams[0].first_token * 1e3);
  return {};
}

Status measure_sampler(Engine& engine, Prompts& prompts, int output_tokens, Json& report) {
  const Interval interval(engine);
  WEFT_RETURN_IF_ERROR(run_together(engine, mixed_requests(prompts, 32, output_tokens)));
  report.set("sampler_us_per_step", interval.sample_us());
  report.set("sampler_share", interval.sample_us() / std::max(1e-9, interval.step_us()));
  return {};
}

}  // namespace

Status bench_details(const Arguments& arguments, const EngineLoader& load) {
  Json report = Json::object();
  {
    WEFT_TRY(const std::unique_ptr<Engine> engine, load_model(arguments, load));
    const ModelInfo& info = engine->info();
    report = Json::object({{"model", info.name}, {"dtype", info.dtype}, {"isa", info.isa}, {"threads", info.threads}});
    Prompts prompts(info.vocab_size);
    WEFT_RETURN_IF_ERROR(run_together(*engine, mixed_requests(prompts, 4, 4)));
    WEFT_RETURN_IF_ERROR(measure_first_token(*engine, prompts, report));
    WEFT_RETURN_IF_ERROR(measure_sampler(*engine, prompts, arguments.output_tokens, report));
  }
  WEFT_RETURN_IF_ERROR(measure_gaps(arguments, load, report));
  if (arguments.json) return print_out(report.dump() + "\n"), Status();
  const auto value = [&](const char* name) { return report.find(name)->as_number(); };
  std::printf("first token, %.0f-token prompt   cold %.1f ms   cached %.1f ms   (%.1f times as fast)\n",
              value("first_token_prompt_tokens"), value("first_token_cold_ms"), value("first_token_cached_ms"),
              value("first_token_cold_ms") / std::max(1e-9, value("first_token_cached_ms")));
  std::printf("gap per step, batch 16, JSON and logprobs   overlap off %.0f us   on %.0f us   (a step takes %.0f us)\n",
              value("gap_us_overlap_off"), value("gap_us_overlap_on"), value("step_us_overlap_on"));
  std::printf("sampler, batch 32, mixed parameters   %.0f us per step   %.1f %% of it\n", value("sampler_us_per_step"),
              100 * value("sampler_share"));
  std::printf("grammar mask   median %.0f us   99th percentile %.0f us\n", value("mask_us_p50"), value("mask_us_p99"));
  return {};
}

}  // namespace weft
