// See the header. Names follow what dashboards of other engines look for, with the prefix weft_.
#include "server/metrics.h"

#include <algorithm>
#include <cstdio>

namespace weft {

namespace {

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

// A label's value: quotes, backslashes and line breaks escaped as the text format wants it.
std::string label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

void print(std::string& out, const char* name, const char* type, const char* help, double value) {
  out += std::string("# HELP weft_") + name + " " + help + "\n# TYPE weft_" + name + " " + type + "\nweft_" + name +
         " " + number(value) + "\n";
}

void print_engine(const EngineMetrics& engine, std::string& out) {
  const auto counter = [&](const char* name, const char* help, double value) {
    print(out, name, "counter", help, value);
  };
  const auto gauge = [&](const char* name, const char* help, double value) { print(out, name, "gauge", help, value); };
  counter("requests_total", "Requests that entered the engine.", static_cast<double>(engine.requests));
  counter("num_requests_completed_total", "Requests answered to the end.",
          static_cast<double>(engine.requests_finished));
  counter("requests_failed_total", "Requests that ended in an error.", static_cast<double>(engine.requests_failed));
  counter("requests_cancelled_total", "Requests whose client left.", static_cast<double>(engine.requests_cancelled));
  counter("prompt_tokens_total", "Tokens of prompts.", static_cast<double>(engine.prompt_tokens));
  counter("generation_tokens_total", "Tokens generated.", static_cast<double>(engine.generation_tokens));
  counter("prompt_cached_tokens_total", "Tokens of prompts found in the cache.",
          static_cast<double>(engine.cached_tokens));
  counter("images_encoded_total", "Images and videos that went through the vision tower.",
          static_cast<double>(engine.images_encoded));
  counter("images_reused_total", "Images and videos whose features were there already.",
          static_cast<double>(engine.images_reused));
  counter("num_preemptions_total", "Sequences that lost their cache blocks to others.",
          static_cast<double>(engine.preemptions));
  counter("iterations_total", "Steps of the engine.", static_cast<double>(engine.steps));
  counter("iteration_seconds_total", "Time inside steps.", engine.step_seconds);
  counter("iteration_gap_seconds_total", "Time between steps while work was waiting.", engine.idle_gap_seconds);
  counter("iteration_sampling_seconds_total", "Time inside steps that the sampler takes.", engine.sample_seconds);
  gauge("grammar_mask_p50_seconds", "Median time to fill a grammar mask, of the last ones.", engine.mask_p50_seconds);
  gauge("grammar_mask_p99_seconds", "99th percentile of it.", engine.mask_p99_seconds);
  gauge("prefill_budget_tokens", "Prompt tokens that a step may take now.", engine.prefill_budget);
  counter("grammar_cache_hits_total", "Grammars found compiled.", static_cast<double>(engine.grammar_hits));
  counter("grammar_cache_misses_total", "Grammars that had to be compiled.",
          static_cast<double>(engine.grammar_misses));
  counter("grammar_cache_evictions_total", "Compiled grammars dropped to make room.",
          static_cast<double>(engine.grammar_evictions));
  counter("grammar_failures_total", "Grammars refused by the compiler.", static_cast<double>(engine.grammar_failures));
  counter("grammar_compile_seconds_total", "Time spent compiling grammars.", engine.grammar_compile_seconds);
  gauge("grammar_cache_entries", "Compiled grammars kept.", static_cast<double>(engine.grammar_entries));
  gauge("grammar_cache_bytes", "Memory of the compiled grammars kept.", static_cast<double>(engine.grammar_bytes));
  gauge("num_requests_running", "Sequences in the batch.", engine.running);
  gauge("num_requests_waiting", "Requests in the queue.", engine.waiting);
  gauge("kv_cache_max_blocks", "Blocks of the KV cache.", static_cast<double>(engine.blocks_total));
  gauge("kv_cache_used_blocks", "Blocks held by sequences.", static_cast<double>(engine.blocks_used));
  gauge("kv_cache_cached_blocks", "Blocks kept for reuse.", static_cast<double>(engine.blocks_cached));
  gauge("kv_cache_free_blocks", "Blocks not held by sequences.",
        static_cast<double>(engine.blocks_total - engine.blocks_used));
  gauge(
      "kv_cache_utilization", "Share of the blocks held by sequences.",
      engine.blocks_total > 0 ? static_cast<double>(engine.blocks_used) / static_cast<double>(engine.blocks_total) : 0);
  gauge("kv_cache_hit_rate", "Share of the prompts' tokens found in the cache since the start.",
        engine.prompt_tokens > 0 ? static_cast<double>(engine.cached_tokens) / static_cast<double>(engine.prompt_tokens)
                                 : 0);
}

}  // namespace

void Histogram::observe(double value) {
  ++counts_[static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin())];
  sum_ += value;
}

void Histogram::print(const std::string& name, std::string& out) const {
  out += "# TYPE " + name + " histogram\n";
  int64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    out += name + "_bucket{le=\"" + (i < bounds_.size() ? number(bounds_[i]) : "+Inf") + "\"} " +
           std::to_string(below) + "\n";
  }
  out += name + "_sum " + number(sum_) + "\n" + name + "_count " + std::to_string(below) + "\n";
}

ServerMetrics::ServerMetrics()
    : total_({0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320}),
      first_token_({0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80}),
      per_token_({0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5}) {}

void ServerMetrics::count_response(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[{route, status}];
}

void ServerMetrics::count_finish_reason(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  ++finished_[reason];
}

void ServerMetrics::count_finished(const RequestTimes& times) {
  const std::lock_guard lock(mutex_);
  total_.observe(times.total_s);
  first_token_.observe(times.first_token_s);
  if (times.usage.completion_tokens > 1)
    per_token_.observe((times.total_s - times.first_token_s) / (times.usage.completion_tokens - 1));
  draft_tokens_ += times.usage.draft_tokens;
  accepted_tokens_ += times.usage.accepted_tokens;
}

std::string ServerMetrics::prometheus(const ModelInfo& model, const EngineMetrics& engine, int connections) const {
  std::string out;
  print_engine(engine, out);
  print(out, "http_connections", "gauge", "Open connections.", connections);
  const std::lock_guard lock(mutex_);
  print(out, "spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", static_cast<double>(draft_tokens_));
  print(out, "spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens that were accepted.",
        static_cast<double>(accepted_tokens_));
  out += "# TYPE weft_request_success_total counter\n";
  for (const auto& [reason, count] : finished_)
    out += "weft_request_success_total{finished_reason=\"" + label(reason) + "\"} " + std::to_string(count) + "\n";
  out += "# TYPE weft_http_requests_total counter\n";
  for (const auto& [key, count] : responses_)
    out += "weft_http_requests_total{path=\"" + label(key.first) + "\",status=\"" + std::to_string(key.second) +
           "\"} " + std::to_string(count) + "\n";
  total_.print("weft_e2e_request_latency_seconds", out);
  first_token_.print("weft_time_to_first_token_seconds", out);
  per_token_.print("weft_time_per_output_token_seconds", out);
  out += "# TYPE weft_model_config_info gauge\nweft_model_config_info{model=\"" + label(model.name) +
         "\",architecture=\"" + label(model.architecture) + "\",dtype=\"" + label(model.dtype) + "\",isa=\"" +
         label(model.isa) + "\"} 1\n";
  return out;
}

}  // namespace weft
