// The whole text of /metrics: dashboards rely on its names, types and help. Every number of the engine is another one,
// so that no two can be exchanged.
#include "server/metrics.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

EngineMetrics engine_metrics() {
  EngineMetrics m;
  m.requests = {.entered = 1,
                .finished = 2,
                .failed = 3,
                .cancelled = 4,
                .prompt_tokens = 500,
                .generation_tokens = 6,
                .cached_tokens = 125};
  m.core.images_encoded = 8, m.core.images_reused = 9;
  m.core.scheduler.queued_requests = 33, m.core.scheduler.yields = 34;
  m.core.scheduler.preemptions = 10, m.core.scheduler.steps = 11;
  m.core.step_seconds = 0.5, m.core.idle_gap_seconds = 0.25, m.core.sample_seconds = 0.125;
  m.core.mask_p50_seconds = 1e-5, m.core.mask_p99_seconds = 3e-5, m.core.prefill_budget = 12;
  m.core.scheduler.draft_rounds = 31;
  m.core.scheduler.drafted = {30, 20}, m.core.scheduler.accepted = {25, 7};
  m.core.scheduler.running = 18, m.core.scheduler.waiting = 19;
  // Two groups of layers, which are printed as one.
  m.core.cache = {{.max_blocks = 300, .used = 90, .cached = 10}, {.max_blocks = 100, .used = 10, .cached = 20}};
  m.grammars = {.hits = 13,
                .misses = 14,
                .evictions = 15,
                .failures = 16,
                .entries = 17,
                .bytes = 123456789012,
                .compile_seconds = 1.5};
  return m;
}

constexpr const char kExpected[] = R"(# HELP weft_requests_total Requests that entered the engine.
# TYPE weft_requests_total counter
weft_requests_total 1
# HELP weft_num_requests_completed_total Requests answered to the end.
# TYPE weft_num_requests_completed_total counter
weft_num_requests_completed_total 2
# HELP weft_requests_failed_total Requests that ended in an error.
# TYPE weft_requests_failed_total counter
weft_requests_failed_total 3
# HELP weft_requests_cancelled_total Requests whose client left.
# TYPE weft_requests_cancelled_total counter
weft_requests_cancelled_total 4
# HELP weft_prompt_tokens_total Tokens of prompts.
# TYPE weft_prompt_tokens_total counter
weft_prompt_tokens_total 500
# HELP weft_generation_tokens_total Tokens generated.
# TYPE weft_generation_tokens_total counter
weft_generation_tokens_total 6
# HELP weft_prompt_cached_tokens_total Tokens of prompts found in the cache.
# TYPE weft_prompt_cached_tokens_total counter
weft_prompt_cached_tokens_total 125
# HELP weft_images_encoded_total Images and videos that went through the vision tower.
# TYPE weft_images_encoded_total counter
weft_images_encoded_total 8
# HELP weft_images_reused_total Images and videos whose features were there already.
# TYPE weft_images_reused_total counter
weft_images_reused_total 9
# HELP weft_queued_requests Requests that wait and have not started.
# TYPE weft_queued_requests gauge
weft_queued_requests 33
# HELP weft_num_yields_total Sequences that gave their slot or memory to a client that had fewer.
# TYPE weft_num_yields_total counter
weft_num_yields_total 34
# HELP weft_num_preemptions_total Sequences that lost their cache blocks to others.
# TYPE weft_num_preemptions_total counter
weft_num_preemptions_total 10
# HELP weft_iterations_total Steps of the engine.
# TYPE weft_iterations_total counter
weft_iterations_total 11
# HELP weft_iteration_seconds_total Time inside steps.
# TYPE weft_iteration_seconds_total counter
weft_iteration_seconds_total 0.5
# HELP weft_iteration_gap_seconds_total Time between steps while work was waiting.
# TYPE weft_iteration_gap_seconds_total counter
weft_iteration_gap_seconds_total 0.25
# HELP weft_iteration_sampling_seconds_total Time inside steps that the sampler takes.
# TYPE weft_iteration_sampling_seconds_total counter
weft_iteration_sampling_seconds_total 0.125
# HELP weft_grammar_mask_p50_seconds Median time to fill a grammar mask, of the last ones.
# TYPE weft_grammar_mask_p50_seconds gauge
weft_grammar_mask_p50_seconds 1e-05
# HELP weft_grammar_mask_p99_seconds 99th percentile of it.
# TYPE weft_grammar_mask_p99_seconds gauge
weft_grammar_mask_p99_seconds 3e-05
# HELP weft_prefill_budget_tokens Prompt tokens that a step may take now.
# TYPE weft_prefill_budget_tokens gauge
weft_prefill_budget_tokens 12
# HELP weft_grammar_cache_hits_total Grammars found compiled.
# TYPE weft_grammar_cache_hits_total counter
weft_grammar_cache_hits_total 13
# HELP weft_grammar_cache_misses_total Grammars that had to be compiled.
# TYPE weft_grammar_cache_misses_total counter
weft_grammar_cache_misses_total 14
# HELP weft_grammar_cache_evictions_total Compiled grammars dropped to make room.
# TYPE weft_grammar_cache_evictions_total counter
weft_grammar_cache_evictions_total 15
# HELP weft_grammar_failures_total Grammars refused by the compiler.
# TYPE weft_grammar_failures_total counter
weft_grammar_failures_total 16
# HELP weft_grammar_compile_seconds_total Time spent compiling grammars.
# TYPE weft_grammar_compile_seconds_total counter
weft_grammar_compile_seconds_total 1.5
# HELP weft_grammar_cache_entries Compiled grammars kept.
# TYPE weft_grammar_cache_entries gauge
weft_grammar_cache_entries 17
# HELP weft_grammar_cache_bytes Memory of the compiled grammars kept.
# TYPE weft_grammar_cache_bytes gauge
weft_grammar_cache_bytes 1.23456789e+11
# HELP weft_num_requests_running Sequences in the batch.
# TYPE weft_num_requests_running gauge
weft_num_requests_running 18
# HELP weft_num_requests_waiting Requests in the queue.
# TYPE weft_num_requests_waiting gauge
weft_num_requests_waiting 19
# HELP weft_kv_cache_max_blocks Blocks of the KV cache.
# TYPE weft_kv_cache_max_blocks gauge
weft_kv_cache_max_blocks 400
# HELP weft_kv_cache_used_blocks Blocks held by sequences.
# TYPE weft_kv_cache_used_blocks gauge
weft_kv_cache_used_blocks 100
# HELP weft_kv_cache_cached_blocks Blocks kept for reuse.
# TYPE weft_kv_cache_cached_blocks gauge
weft_kv_cache_cached_blocks 30
# HELP weft_kv_cache_free_blocks Blocks not held by sequences.
# TYPE weft_kv_cache_free_blocks gauge
weft_kv_cache_free_blocks 300
# HELP weft_kv_cache_utilization Share of the blocks held by sequences.
# TYPE weft_kv_cache_utilization gauge
weft_kv_cache_utilization 0.25
# HELP weft_kv_cache_hit_rate Share of the prompts' tokens found in the cache since the start.
# TYPE weft_kv_cache_hit_rate gauge
weft_kv_cache_hit_rate 0.25
# HELP weft_draft_rounds_total Times that drafts of a sequence were checked.
# TYPE weft_draft_rounds_total counter
weft_draft_rounds_total 31
# HELP weft_draft_tokens_total Drafted tokens that were checked.
# TYPE weft_draft_tokens_total counter
weft_draft_tokens_total 50
# HELP weft_accepted_tokens_total Drafted tokens that were accepted.
# TYPE weft_accepted_tokens_total counter
weft_accepted_tokens_total 32
# HELP weft_draft_tokens_per_position_total Drafted tokens that were checked, by place.
# TYPE weft_draft_tokens_per_position_total counter
weft_draft_tokens_per_position_total{position="0"} 30
weft_draft_tokens_per_position_total{position="1"} 20
weft_draft_tokens_per_position_total{position="2"} 0
weft_draft_tokens_per_position_total{position="3"} 0
weft_draft_tokens_per_position_total{position="4"} 0
weft_draft_tokens_per_position_total{position="5"} 0
weft_draft_tokens_per_position_total{position="6"} 0
weft_draft_tokens_per_position_total{position="7"} 0
weft_draft_tokens_per_position_total{position="8"} 0
weft_draft_tokens_per_position_total{position="9"} 0
weft_draft_tokens_per_position_total{position="10"} 0
weft_draft_tokens_per_position_total{position="11"} 0
weft_draft_tokens_per_position_total{position="12"} 0
weft_draft_tokens_per_position_total{position="13"} 0
weft_draft_tokens_per_position_total{position="14"} 0
weft_draft_tokens_per_position_total{position="15"} 0
# HELP weft_accepted_tokens_per_position_total Drafted tokens that were accepted, by place.
# TYPE weft_accepted_tokens_per_position_total counter
weft_accepted_tokens_per_position_total{position="0"} 25
weft_accepted_tokens_per_position_total{position="1"} 7
weft_accepted_tokens_per_position_total{position="2"} 0
weft_accepted_tokens_per_position_total{position="3"} 0
weft_accepted_tokens_per_position_total{position="4"} 0
weft_accepted_tokens_per_position_total{position="5"} 0
weft_accepted_tokens_per_position_total{position="6"} 0
weft_accepted_tokens_per_position_total{position="7"} 0
weft_accepted_tokens_per_position_total{position="8"} 0
weft_accepted_tokens_per_position_total{position="9"} 0
weft_accepted_tokens_per_position_total{position="10"} 0
weft_accepted_tokens_per_position_total{position="11"} 0
weft_accepted_tokens_per_position_total{position="12"} 0
weft_accepted_tokens_per_position_total{position="13"} 0
weft_accepted_tokens_per_position_total{position="14"} 0
weft_accepted_tokens_per_position_total{position="15"} 0
# HELP vllm:spec_decode_num_drafts_total Times that drafts of a sequence were checked.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total 31
# HELP vllm:spec_decode_num_draft_tokens_total Drafted tokens that were checked.
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total 50
# HELP vllm:spec_decode_num_accepted_tokens_total Drafted tokens that were accepted.
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total 32
# HELP vllm:spec_decode_num_accepted_tokens_per_pos_total Drafted tokens that were accepted, by place.
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 25
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 7
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="2"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="3"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="4"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="5"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="6"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="7"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="8"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="9"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="10"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="11"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="12"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="13"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="14"} 0
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="15"} 0
# HELP weft_engine_stalled_seconds Without a step while the engine has work.
# TYPE weft_engine_stalled_seconds gauge
weft_engine_stalled_seconds 1.5
# HELP weft_http_connections Open connections.
# TYPE weft_http_connections gauge
weft_http_connections 22
# HELP weft_http_requests_queued Requests that wait for a handler thread.
# TYPE weft_http_requests_queued gauge
weft_http_requests_queued 3
# HELP weft_http_handlers_running Requests that are being prepared.
# TYPE weft_http_handlers_running gauge
weft_http_handlers_running 4
# HELP weft_http_handlers_replaced Of these, given up: they did not end when they had had their time.
# TYPE weft_http_handlers_replaced gauge
weft_http_handlers_replaced 1
# HELP weft_http_handlers_overdue_total Requests whose preparation had had its time.
# TYPE weft_http_handlers_overdue_total counter
weft_http_handlers_overdue_total 5
# HELP weft_http_request_timeouts_total Requests whose head or body did not come in time.
# TYPE weft_http_request_timeouts_total counter
weft_http_request_timeouts_total 6
# HELP weft_http_connections_evicted_total Idle connections closed for new ones.
# TYPE weft_http_connections_evicted_total counter
weft_http_connections_evicted_total 7
# HELP weft_http_connections_refused_total Connections refused: too many, or too many of one address.
# TYPE weft_http_connections_refused_total counter
weft_http_connections_refused_total 8
# HELP weft_request_success_total Choices by the reason of their end.
# TYPE weft_request_success_total counter
weft_request_success_total{finished_reason="stop"} 1
# HELP weft_http_requests_total Responses by route and status.
# TYPE weft_http_requests_total counter
weft_http_requests_total{path="/v1/completions",status="200"} 1
# HELP weft_e2e_request_latency_seconds Time from a request to the end of its answer.
# TYPE weft_e2e_request_latency_seconds histogram
weft_e2e_request_latency_seconds_bucket{le="0.05"} 0
weft_e2e_request_latency_seconds_bucket{le="0.1"} 0
weft_e2e_request_latency_seconds_bucket{le="0.25"} 0
weft_e2e_request_latency_seconds_bucket{le="0.5"} 0
weft_e2e_request_latency_seconds_bucket{le="1"} 0
weft_e2e_request_latency_seconds_bucket{le="2.5"} 0
weft_e2e_request_latency_seconds_bucket{le="5"} 1
weft_e2e_request_latency_seconds_bucket{le="10"} 1
weft_e2e_request_latency_seconds_bucket{le="20"} 1
weft_e2e_request_latency_seconds_bucket{le="40"} 1
weft_e2e_request_latency_seconds_bucket{le="80"} 1
weft_e2e_request_latency_seconds_bucket{le="160"} 1
weft_e2e_request_latency_seconds_bucket{le="320"} 1
weft_e2e_request_latency_seconds_bucket{le="+Inf"} 1
weft_e2e_request_latency_seconds_sum 3
weft_e2e_request_latency_seconds_count 1
# HELP weft_time_to_first_token_seconds Time from a request to the first token of its answer.
# TYPE weft_time_to_first_token_seconds histogram
weft_time_to_first_token_seconds_bucket{le="0.005"} 0
weft_time_to_first_token_seconds_bucket{le="0.01"} 0
weft_time_to_first_token_seconds_bucket{le="0.025"} 0
weft_time_to_first_token_seconds_bucket{le="0.05"} 0
weft_time_to_first_token_seconds_bucket{le="0.1"} 0
weft_time_to_first_token_seconds_bucket{le="0.25"} 1
weft_time_to_first_token_seconds_bucket{le="0.5"} 1
weft_time_to_first_token_seconds_bucket{le="1"} 1
weft_time_to_first_token_seconds_bucket{le="2.5"} 1
weft_time_to_first_token_seconds_bucket{le="5"} 1
weft_time_to_first_token_seconds_bucket{le="10"} 1
weft_time_to_first_token_seconds_bucket{le="20"} 1
weft_time_to_first_token_seconds_bucket{le="40"} 1
weft_time_to_first_token_seconds_bucket{le="80"} 1
weft_time_to_first_token_seconds_bucket{le="+Inf"} 1
weft_time_to_first_token_seconds_sum 0.2
weft_time_to_first_token_seconds_count 1
# HELP weft_time_per_output_token_seconds Time per token behind an answer's first one.
# TYPE weft_time_per_output_token_seconds histogram
weft_time_per_output_token_seconds_bucket{le="0.0005"} 0
weft_time_per_output_token_seconds_bucket{le="0.001"} 0
weft_time_per_output_token_seconds_bucket{le="0.0025"} 0
weft_time_per_output_token_seconds_bucket{le="0.005"} 0
weft_time_per_output_token_seconds_bucket{le="0.01"} 0
weft_time_per_output_token_seconds_bucket{le="0.025"} 0
weft_time_per_output_token_seconds_bucket{le="0.05"} 0
weft_time_per_output_token_seconds_bucket{le="0.075"} 0
weft_time_per_output_token_seconds_bucket{le="0.1"} 0
weft_time_per_output_token_seconds_bucket{le="0.15"} 0
weft_time_per_output_token_seconds_bucket{le="0.2"} 0
weft_time_per_output_token_seconds_bucket{le="0.3"} 0
weft_time_per_output_token_seconds_bucket{le="0.5"} 1
weft_time_per_output_token_seconds_bucket{le="1"} 1
weft_time_per_output_token_seconds_bucket{le="2.5"} 1
weft_time_per_output_token_seconds_bucket{le="+Inf"} 1
weft_time_per_output_token_seconds_sum 0.4
weft_time_per_output_token_seconds_count 1
# HELP weft_model_config_info The model, as labels.
# TYPE weft_model_config_info gauge
weft_model_config_info{model="a \"b\"",architecture="LlamaForCausalLM",dtype="bfloat16",isa="avx2"} 1
)";

TEST(Metrics, Text) {
  ModelInfo info;
  info.name = "a \"b\"", info.architecture = "LlamaForCausalLM", info.dtype = "bfloat16", info.isa = "avx2";
  ServerMetrics metrics;
  metrics.count_response("/v1/completions", 200);
  metrics.count_finish_reason("stop");
  RequestTimes times;
  times.total_s = 3, times.first_token_s = 0.2;
  times.usage.completion_tokens = 8;
  metrics.count_finished(times);
  EXPECT_EQ(metrics.prometheus(info, engine_metrics(), {{22, 3, 4, 1, 5, 6, 7, 8}, {2, 1.5}}), kExpected);
}

// Those of the pipeline stand behind the drafts', and only if it has several stages.
TEST(Metrics, Stages) {
  EngineMetrics engine = engine_metrics();
  const std::string one = ServerMetrics().prometheus({}, engine, {});
  engine.core.stages = 4, engine.core.turns = 1000, engine.core.busy_stages = 3500;
  const std::string stages =
      R"(# HELP weft_pipeline_stages Stages that compute a step each.
# TYPE weft_pipeline_stages gauge
weft_pipeline_stages 4
# HELP weft_pipeline_turns_total Times that steps went on by a stage.
# TYPE weft_pipeline_turns_total counter
weft_pipeline_turns_total 1000
# HELP weft_pipeline_busy_stages_total Stages with a step, over all turns.
# TYPE weft_pipeline_busy_stages_total counter
weft_pipeline_busy_stages_total 3500
)";
  const std::string several = ServerMetrics().prometheus({}, engine, {});
  ASSERT_NE(several.find(stages), std::string::npos);
  EXPECT_EQ(std::string(several).erase(several.find(stages), stages.size()), one);
}

TEST(Metrics, Tier) {
  EngineMetrics engine = engine_metrics();
  EXPECT_EQ(ServerMetrics().prometheus({}, engine, {}).find("kv_tier"), std::string::npos);
  engine.core.has_tier = true, engine.core.scheduler.exports_dropped = 9;
  engine.core.tier = {.imports = 5, .imported_blocks = 40, .imports_without_room = 1, .failed_imports = 2};
  engine.core.tier.store.blocks = 70, engine.core.tier.store.bytes = 7000, engine.core.tier.store.torn = 3;
  const std::string text = ServerMetrics().prometheus({}, engine, {});
  for (const char* line : {"weft_kv_tier_blocks 70", "weft_kv_tier_bytes 7000", "weft_kv_tier_imports_total 5",
                           "weft_kv_tier_imported_blocks_total 40", "weft_kv_tier_failed_imports_total 2",
                           "weft_kv_tier_imports_without_room_total 1", "weft_kv_tier_dropped_exports_total 9",
                           "weft_kv_tier_damaged_total 3"})
    EXPECT_NE(text.find(std::string(line) + "\n"), std::string::npos) << line;
}

TEST(Metrics, Transfer) {
  EngineMetrics engine = engine_metrics();
  EXPECT_EQ(ServerMetrics().prometheus({}, engine, {}).find("kv_transfer"), std::string::npos);
  engine.core.has_transfer = true;
  engine.core.transfer = {
      {.fetches = 9, .complete = 7, .local = 3, .failures = 2, .blocks = 50, .bytes = 5000, .active = 1},
      {.prompts = 6, .complete = 4, .cancelled = 1, .failed = 2, .bytes = 800, .active = 5},
      8,
      10};
  const std::string text = ServerMetrics().prometheus({}, engine, {});
  for (const char* line :
       {"connections 8", "refused_total 10", "fetches 1", "fetches_total 9", "complete_fetches_total 7",
        "failed_fetches_total 2", "local_prompts_total 3", "fetched_blocks_total 50", "fetched_bytes_total 5000",
        "leases 5", "leases_total 6", "complete_leases_total 4", "cancelled_leases_total 1", "failed_leases_total 2",
        "sent_bytes_total 800"})
    EXPECT_NE(text.find("\nweft_kv_transfer_" + std::string(line) + "\n"), std::string::npos) << line;
}

// Those of vision towers stand there too, if several processes have one.
TEST(Metrics, Towers) {
  EngineMetrics engine = engine_metrics();
  const std::string one = ServerMetrics().prometheus({}, engine, {});
  engine.core.images_of_processes = {8};
  EXPECT_EQ(ServerMetrics().prometheus({}, engine, {}), one);
  engine.core.images_of_processes = {5, 3};
  const std::string towers =
      R"(# HELP weft_process_images_encoded_total Images and videos that a process has encoded.
# TYPE weft_process_images_encoded_total counter
weft_process_images_encoded_total{process="0"} 5
weft_process_images_encoded_total{process="1"} 3
)";
  const std::string several = ServerMetrics().prometheus({}, engine, {});
  ASSERT_NE(several.find(towers), std::string::npos);
  EXPECT_EQ(std::string(several).erase(several.find(towers), towers.size()), one);
}

// Those of homes stand behind the drafts', and only if there are several.
TEST(Metrics, Homes) {
  EngineMetrics engine = engine_metrics();
  engine.core.homes = {{.running = 3, .blocks = {.used = 4}, .cache_bytes = 500, .prompt_tokens = 60}};
  const std::string one = ServerMetrics().prometheus({}, engine, {});
  EXPECT_EQ(one, ServerMetrics().prometheus({}, engine_metrics(), {}));
  engine.core.homes.push_back({.running = 7, .blocks = {.used = 8}, .cache_bytes = 900, .prompt_tokens = 100});
  engine.core.scheduler.scheduled_tokens = 1100, engine.core.scheduler.paced_tokens = 1200;
  engine.core.scheduler.balance_ratio = 0.75;
  const std::string homes =
      R"(# HELP weft_adp_balance_ratio Mean load of the homes by that of the fullest, in recent steps.
# TYPE weft_adp_balance_ratio gauge
weft_adp_balance_ratio 0.75
# HELP weft_adp_load_tokens_total Positions that the homes computed.
# TYPE weft_adp_load_tokens_total counter
weft_adp_load_tokens_total 1100
# HELP weft_adp_paced_tokens_total What they would have computed, all as full as each step's fullest.
# TYPE weft_adp_paced_tokens_total counter
weft_adp_paced_tokens_total 1200
# HELP weft_home_sequences_running Sequences in the batch.
# TYPE weft_home_sequences_running gauge
weft_home_sequences_running{home="0"} 3
weft_home_sequences_running{home="1"} 7
# HELP weft_home_kv_cache_used_blocks Blocks held by sequences.
# TYPE weft_home_kv_cache_used_blocks gauge
weft_home_kv_cache_used_blocks{home="0"} 4
weft_home_kv_cache_used_blocks{home="1"} 8
# HELP weft_home_kv_cache_used_bytes Bytes of these.
# TYPE weft_home_kv_cache_used_bytes gauge
weft_home_kv_cache_used_bytes{home="0"} 500
weft_home_kv_cache_used_bytes{home="1"} 900
# HELP weft_home_prompt_tokens_total Tokens of prompts that were computed.
# TYPE weft_home_prompt_tokens_total counter
weft_home_prompt_tokens_total{home="0"} 60
weft_home_prompt_tokens_total{home="1"} 100
)";
  std::string several = ServerMetrics().prometheus({}, engine, {});
  const size_t at = several.find(homes);
  ASSERT_NE(at, std::string::npos) << several;
  EXPECT_EQ(several.erase(at, homes.size()), one);
}

// Shares of nothing are 0.
TEST(Metrics, BeforeTheFirstRequest) {
  const std::string text = ServerMetrics().prometheus({}, {}, {});
  EXPECT_NE(text.find("\nweft_kv_cache_utilization 0\n"), std::string::npos);
  EXPECT_NE(text.find("\nweft_kv_cache_hit_rate 0\n"), std::string::npos);
}

}  // namespace
}  // namespace weft
