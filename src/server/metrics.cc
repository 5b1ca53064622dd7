// See the header. Names follow what dashboards of other engines look for, with the prefix weft_.
#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace weft {

namespace {

using prometheus::describe;
using prometheus::label;
using prometheus::number;
using prometheus::print;

using M = EngineMetrics;

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

struct EngineMetric {
  const char *name, *type, *help;
  double (*value)(const EngineMetrics& metrics);
};

using prometheus::kCounter, prometheus::kGauge;

constexpr EngineMetric kEngineMetrics[] = {
    {"requests_total", kCounter, "Requests that entered the engine.",
     [](const M& m) -> double { return m.requests.entered; }},
    {"num_requests_completed_total", kCounter, "Requests answered to the end.",
     [](const M& m) -> double { return m.requests.finished; }},
    {"requests_failed_total", kCounter, "Requests that ended in an error.",
     [](const M& m) -> double { return m.requests.failed; }},
    {"requests_cancelled_total", kCounter, "Requests whose client left.",
     [](const M& m) -> double { return m.requests.cancelled; }},
    {"prompt_tokens_total", kCounter, "Tokens of prompts.",
     [](const M& m) -> double { return m.requests.prompt_tokens; }},
    {"generation_tokens_total", kCounter, "Tokens generated.",
     [](const M& m) -> double { return m.requests.generation_tokens; }},
    {"prompt_cached_tokens_total", kCounter, "Tokens of prompts found in the cache.",
     [](const M& m) -> double { return m.requests.cached_tokens; }},
    {"images_encoded_total", kCounter, "Images and videos that went through the vision tower.",
     [](const M& m) -> double { return m.core.images_encoded; }},
    {"images_reused_total", kCounter, "Images and videos whose features were there already.",
     [](const M& m) -> double { return m.core.images_reused; }},
    {"queued_requests", kGauge, "Requests that wait and have not started.",
     [](const M& m) -> double { return m.core.scheduler.queued_requests; }},
    {"num_yields_total", kCounter, "Sequences that gave their slot or memory to a client that had fewer.",
     [](const M& m) -> double { return static_cast<double>(m.core.scheduler.yields); }},
    {"num_preemptions_total", kCounter, "Sequences that lost their cache blocks to others.",
     [](const M& m) -> double { return m.core.scheduler.preemptions; }},
    {"iterations_total", kCounter, "Steps of the engine.", [](const M& m) -> double { return m.core.scheduler.steps; }},
    {"iteration_seconds_total", kCounter, "Time inside steps.", [](const M& m) { return m.core.step_seconds; }},
    {"iteration_gap_seconds_total", kCounter, "Time between steps while work was waiting.",
     [](const M& m) { return m.core.idle_gap_seconds; }},
    {"iteration_sampling_seconds_total", kCounter, "Time inside steps that the sampler takes.",
     [](const M& m) { return m.core.sample_seconds; }},
    {"grammar_mask_p50_seconds", kGauge, "Median time to fill a grammar mask, of the last ones.",
     [](const M& m) { return m.core.mask_p50_seconds; }},
    {"grammar_mask_p99_seconds", kGauge, "99th percentile of it.", [](const M& m) { return m.core.mask_p99_seconds; }},
    {"prefill_budget_tokens", kGauge, "Prompt tokens that a step may take now.",
     [](const M& m) -> double { return m.core.prefill_budget; }},
    {"grammar_cache_hits_total", kCounter, "Grammars found compiled.",
     [](const M& m) -> double { return m.grammars.hits; }},
    {"grammar_cache_misses_total", kCounter, "Grammars that had to be compiled.",
     [](const M& m) -> double { return m.grammars.misses; }},
    {"grammar_cache_evictions_total", kCounter, "Compiled grammars dropped to make room.",
     [](const M& m) -> double { return m.grammars.evictions; }},
    {"grammar_failures_total", kCounter, "Grammars refused by the compiler.",
     [](const M& m) -> double { return m.grammars.failures; }},
    {"grammar_compile_seconds_total", kCounter, "Time spent compiling grammars.",
     [](const M& m) { return m.grammars.compile_seconds; }},
    {"grammar_cache_entries", kGauge, "Compiled grammars kept.",
     [](const M& m) -> double { return m.grammars.entries; }},
    {"grammar_cache_bytes", kGauge, "Memory of the compiled grammars kept.",
     [](const M& m) -> double { return m.grammars.bytes; }},
    {"num_requests_running", kGauge, "Sequences in the batch.",
     [](const M& m) -> double { return m.core.scheduler.running; }},
    {"num_requests_waiting", kGauge, "Requests in the queue.",
     [](const M& m) -> double { return m.core.scheduler.waiting; }},
    {"kv_cache_max_blocks", kGauge, "Blocks of the KV cache.",
     [](const M& m) -> double { return m.core.blocks().max_blocks; }},
    {"kv_cache_used_blocks", kGauge, "Blocks held by sequences.",
     [](const M& m) -> double { return m.core.blocks().used; }},
    {"kv_cache_cached_blocks", kGauge, "Blocks kept for reuse.",
     [](const M& m) -> double { return m.core.blocks().cached; }},
    {"kv_cache_free_blocks", kGauge, "Blocks not held by sequences.",
     [](const M& m) -> double { return m.core.blocks().max_blocks - m.core.blocks().used; }},
    {"kv_cache_utilization", kGauge, "Share of the blocks held by sequences.",
     [](const M& m) { return share(m.core.blocks().used, m.core.blocks().max_blocks); }},
    {"kv_cache_hit_rate", kGauge, "Share of the prompts' tokens found in the cache since the start.",
     [](const M& m) {
       return share(static_cast<double>(m.requests.cached_tokens), static_cast<double>(m.requests.prompt_tokens));
     }},
};

// A counter for each place in a step's drafts.
using PerPosition = std::array<uint64_t, kMostDrafts>;

void print_positions(std::string& out, const std::string& name, const char* help, const PerPosition& counts) {
  describe(out, name, kCounter, help);
  for (size_t i = 0; i < counts.size(); ++i)
    out += name + "{position=\"" + std::to_string(i) + "\"} " + number(static_cast<double>(counts[i])) + "\n";
}

// Speculation, under weft's names and under vLLM's.
void print_drafts(std::string& out, const SchedulerMetrics& metrics) {
  const auto sum = [](const PerPosition& counts) {
    return static_cast<double>(std::accumulate(counts.begin(), counts.end(), uint64_t{0}));
  };
  const auto counter = [&](const char* name, const char* help, double value) {
    describe(out, name, kCounter, help);
    out += name + (" " + number(value)) + "\n";
  };
  constexpr const char kRounds[] = "Times that drafts of a sequence were checked.";
  constexpr const char kDrafted[] = "Drafted tokens that were checked.";
  constexpr const char kAccepted[] = "Drafted tokens that were accepted.";
  const auto rounds = static_cast<double>(metrics.draft_rounds);
  const double drafted = sum(metrics.drafted), accepted = sum(metrics.accepted);
  counter("weft_draft_rounds_total", kRounds, rounds);
  counter("weft_draft_tokens_total", kDrafted, drafted);
  counter("weft_accepted_tokens_total", kAccepted, accepted);
  print_positions(out, "weft_draft_tokens_per_position_total", "Drafted tokens that were checked, by place.",
                  metrics.drafted);
  print_positions(out, "weft_accepted_tokens_per_position_total", "Drafted tokens that were accepted, by place.",
                  metrics.accepted);
  counter("vllm:spec_decode_num_drafts_total", kRounds, rounds);
  counter("vllm:spec_decode_num_draft_tokens_total", kDrafted, drafted);
  counter("vllm:spec_decode_num_accepted_tokens_total", kAccepted, accepted);
  print_positions(out, "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                  "Drafted tokens that were accepted, by place.", metrics.accepted);
}

// With several pipeline stages: how full they are.
void print_stages(std::string& out, const CoreMetrics& core) {
  if (core.stages < 2) return;
  print(out, "pipeline_stages", kGauge, "Stages that compute a step each.", core.stages);
  print(out, "pipeline_turns_total", kCounter, "Times that steps went on by a stage.", static_cast<double>(core.turns));
  print(out, "pipeline_busy_stages_total", kCounter, "Stages with a step, over all turns.",
        static_cast<double>(core.busy_stages));
}

// Where the model takes adapters.
void print_adapters(std::string& out, const CoreMetrics& core) {
  if (!core.has_adapters) return;
  const AdapterMetrics& m = core.adapters;
  const auto gauge = [&](const char* name, const char* help, int64_t value) {
    print(out, name, kGauge, help, static_cast<double>(value));
  };
  gauge("lora_adapters", "Adapters that requests may choose.", m.known);
  gauge("lora_adapters_loaded", "Adapters in memory.", m.loaded);
  gauge("lora_adapters_in_use", "Adapters in memory that sequences use.", m.in_use);
  gauge("lora_bytes", "Memory of the adapters, in this process.", m.bytes);
  print(out, "lora_loads_total", kCounter, "Adapters that were read.", static_cast<double>(m.loads));
  print(out, "lora_evictions_total", kCounter, "Adapters dropped to make room, to be read again.",
        static_cast<double>(m.evictions));
}

// With a tier of the cache: what is in it, and what went to and fro.
void print_tier(std::string& out, const CoreMetrics& core) {
  if (!core.has_tier) return;
  const TierMetrics& tier = core.tier;
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    print(out, name, kCounter, help, static_cast<double>(value));
  };
  const auto count = [&](const char* name, const char* help, int64_t value) {
    counter(name, help, static_cast<uint64_t>(value));
  };
  print(out, "kv_tier_blocks", kGauge, "Blocks in the cache's tier, of this model.",
        static_cast<double>(tier.store.blocks));
  print(out, "kv_tier_bytes", kGauge, "Bytes of the tier, with all that share it.",
        static_cast<double>(tier.store.bytes));
  counter("kv_tier_imports_total", "Prompts that got blocks from the tier.", tier.imports);
  counter("kv_tier_imported_blocks_total", "Blocks that they got.", tier.imported_blocks);
  counter("kv_tier_failed_imports_total", "Tries that found a block missing or damaged.", tier.failed_imports);
  counter("kv_tier_imports_without_room_total", "Prompts that were computed because the cache had no room.",
          tier.imports_without_room);
  counter("kv_tier_dropped_exports_total", "Sequences whose blocks were not kept: too many waited to be copied.",
          core.scheduler.exports_dropped);
  count("kv_tier_reads_total", "Blocks that were read.", tier.store.hits);
  count("kv_tier_read_bytes_total", "Bytes of these.", tier.store.read_bytes);
  count("kv_tier_writes_total", "Blocks that were written.", tier.store.writes);
  count("kv_tier_written_bytes_total", "Bytes of these.", tier.store.written_bytes);
  count("kv_tier_write_errors_total", "Blocks that could not be written.", tier.store.write_errors);
  count("kv_tier_damaged_total", "Damaged or foreign files that were found and removed.", tier.store.torn);
  count("kv_tier_evicted_total", "Blocks that were removed to make room.", tier.store.evicted);
}

// Of a server in a deployment: prompts that others computed, and that were computed for others.
void print_transfer(std::string& out, const CoreMetrics& core) {
  if (!core.has_transfer) return;
  const FetchMetrics& fetched = core.transfer.fetched;
  const ProvideMetrics& provided = core.transfer.provided;
  const auto gauge = [&](const char* name, const char* help, int64_t value) {
    print(out, name, kGauge, help, static_cast<double>(value));
  };
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    print(out, name, kCounter, help, static_cast<double>(value));
  };
  gauge("kv_transfer_connections", "Connections to other servers, either way.", core.transfer.connections);
  counter("kv_transfer_refused_total", "Connections that ended before both sides knew each other.",
          core.transfer.refused);
  gauge("kv_transfer_fetches", "Prompts that wait for blocks of other servers.", fetched.active);
  counter("kv_transfer_fetches_total", "Prompts that other servers were asked for.", fetched.fetches);
  counter("kv_transfer_complete_fetches_total", "Those whose blocks all came.", fetched.complete);
  counter("kv_transfer_failed_fetches_total", "Times that a server did not give what it was asked for.",
          fetched.failures);
  counter("kv_transfer_local_prompts_total", "Prompts that nobody was asked for: too little was missing.",
          fetched.local);
  counter("kv_transfer_fetched_blocks_total", "Blocks that came.", fetched.blocks);
  counter("kv_transfer_fetched_bytes_total", "Bytes that came.", fetched.bytes);
  gauge("kv_transfer_leases", "Prompts of other servers that are computed or sent.", provided.active);
  counter("kv_transfer_leases_total", "Prompts that other servers asked for.", provided.prompts);
  counter("kv_transfer_complete_leases_total", "Those whose blocks were all sent.", provided.complete);
  counter("kv_transfer_cancelled_leases_total", "Those that the other server wanted no more, or that was lost.",
          provided.cancelled);
  counter("kv_transfer_failed_leases_total", "Those that could not be computed or sent in time.", provided.failed);
  counter("kv_transfer_sent_bytes_total", "Bytes that were sent.", provided.bytes);
}

// With several homes: each of them, and how level their loads are.
void print_homes(std::string& out, const CoreMetrics& core) {
  if (core.homes.size() < 2) return;
  print(out, "adp_balance_ratio", kGauge, "Mean load of the homes by that of the fullest, in recent steps.",
        core.scheduler.balance_ratio);
  print(out, "adp_load_tokens_total", kCounter, "Positions that the homes computed.",
        static_cast<double>(core.scheduler.scheduled_tokens));
  print(out, "adp_paced_tokens_total", kCounter, "What they would have computed, all as full as each step's fullest.",
        static_cast<double>(core.scheduler.paced_tokens));
  const auto each = [&](const std::string& name, const char* type, const char* help, auto value) {
    describe(out, name, type, help);
    for (size_t h = 0; h < core.homes.size(); ++h)
      out += name + "{home=\"" + std::to_string(h) + "\"} " + number(static_cast<double>(value(core.homes[h]))) + "\n";
  };
  each("weft_home_sequences_running", kGauge, "Sequences in the batch.",
       [](const HomeMetrics& h) { return h.running; });
  each("weft_home_kv_cache_used_blocks", kGauge, "Blocks held by sequences.",
       [](const HomeMetrics& h) { return h.blocks.used; });
  each("weft_home_kv_cache_used_bytes", kGauge, "Bytes of these.", [](const HomeMetrics& h) { return h.cache_bytes; });
  each("weft_home_prompt_tokens_total", kCounter, "Tokens of prompts that were computed.",
       [](const HomeMetrics& h) { return h.prompt_tokens; });
}

// With several vision towers: which process has encoded how many.
void print_towers(std::string& out, const CoreMetrics& core) {
  if (core.images_of_processes.size() < 2) return;
  describe(out, "weft_process_images_encoded_total", kCounter, "Images and videos that a process has encoded.");
  for (size_t r = 0; r < core.images_of_processes.size(); ++r)
    out += "weft_process_images_encoded_total{process=\"" + std::to_string(r) + "\"} " +
           number(static_cast<double>(core.images_of_processes[r])) + "\n";
}

void print_server(std::string& out, const ServerGauges& gauges) {
  const HttpStats& http = gauges.http;
  print(out, "engine_stalled_seconds", kGauge, "Without a step while the engine has work.",
        gauges.engine.still_seconds);
  print(out, "http_connections", kGauge, "Open connections.", http.connections);
  print(out, "http_requests_queued", kGauge, "Requests that wait for a handler thread.", http.queued);
  print(out, "http_handlers_running", kGauge, "Requests that are being prepared.", http.handlers);
  print(out, "http_handlers_replaced", kGauge, "Of these, given up: they did not end when they had had their time.",
        http.replaced);
  const auto total = [&](const char* name, const char* help, int64_t value) {
    print(out, name, kCounter, help, static_cast<double>(value));
  };
  total("http_handlers_overdue_total", "Requests whose preparation had had its time.", http.overdue);
  total("http_request_timeouts_total", "Requests whose head or body did not come in time.", http.timeouts);
  total("http_connections_evicted_total", "Idle connections closed for new ones.", http.evicted);
  total("http_connections_refused_total", "Connections refused: too many, or too many of one address.",
        http.refused_connections);
}

}  // namespace

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
}

std::string ServerMetrics::prometheus(const ModelInfo& model, const EngineMetrics& engine,
                                      const ServerGauges& gauges) const {
  std::string out;
  for (const EngineMetric& metric : kEngineMetrics)
    print(out, metric.name, metric.type, metric.help, metric.value(engine));
  print_drafts(out, engine.core.scheduler);
  print_stages(out, engine.core);
  print_adapters(out, engine.core);
  print_tier(out, engine.core);
  print_transfer(out, engine.core);
  print_homes(out, engine.core);
  print_towers(out, engine.core);
  print_server(out, gauges);
  const std::lock_guard lock(mutex_);
  describe(out, "weft_request_success_total", kCounter, "Choices by the reason of their end.");
  for (const auto& [reason, count] : finished_)
    out += "weft_request_success_total{finished_reason=\"" + label(reason) + "\"} " + std::to_string(count) + "\n";
  describe(out, "weft_http_requests_total", kCounter, "Responses by route and status.");
  for (const auto& [key, count] : responses_)
    out += "weft_http_requests_total{path=\"" + label(key.first) + "\",status=\"" + std::to_string(key.second) +
           "\"} " + std::to_string(count) + "\n";
  total_.print("weft_e2e_request_latency_seconds", "Time from a request to the end of its answer.", out);
  first_token_.print("weft_time_to_first_token_seconds", "Time from a request to the first token of its answer.", out);
  per_token_.print("weft_time_per_output_token_seconds", "Time per token behind an answer's first one.", out);
  describe(out, "weft_model_config_info", kGauge, "The model, as labels.");
  out += "weft_model_config_info{model=\"" + label(model.name) + "\",architecture=\"" + label(model.architecture) +
         "\",dtype=\"" + label(model.dtype) + "\",isa=\"" + label(model.isa) + "\"} 1\n";
  return out;
}

}  // namespace weft
