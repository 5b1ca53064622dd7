// Everything that can be set about an engine, under the same names on the command line (dashes), in the configuration
// file (underscores) and here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/limits.h"
#include "base/cpu_layout.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "core/media_limits.h"
#include "core/option_kinds.h"
#include "core/ranks.h"
#include "core/speculation.h"

namespace weft {

class Drafter;
class LogitsProcessorKind;
class PlanTrace;

// Where the sampling defaults of requests come from; automatic: the model's generation_config.json, none: the API's.
enum class GenerationConfig : uint8_t { automatic, none };
template <>
inline constexpr auto kNames<GenerationConfig> = names_of_all<GenerationConfig>("auto", "none");

// What a server admits. In a program nothing is refused unless it says so.
struct AdmissionLimits {
  // Requests that wait and have not started, of all clients and of one (Request::client); one more is refused
  // (resource_exhausted). 0: no bound.
  int max_queue = 0, max_queue_per_client = 0;
  int max_client_priority = 100;  // a higher Request::priority counts as this
  double request_timeout_s = 0;   // seconds from submit() to the last event; 0: no limit
};

// A low-rank adapter (docs/lora.md): requests choose it by its name.
struct LoraModule {
  std::string name, path;
};

struct LoraOptions {
  std::vector<LoraModule> modules;    // that are loaded with the model
  bool allow_loading = false;         // Engine::load_adapter()
  int max_rank = 64;                  // of a module
  int64_t memory = int64_t{2} << 30;  // bytes of all adapters that are held in this process
  bool any() const { return !modules.empty() || allow_loading; }
};

struct EngineOptions {
  ComputeType dtype = ComputeType::automatic;
  Quantize quantize = Quantize::none;
  // round inputs of products as the checkpoint's format says, or not at all
  ActivationQuantization activation_quantization = ActivationQuantization::off;
  bool dequantize = false;  // widen weights that are stored in 8 or 4 bits to dtype while loading
  PackWeights pack_weights = PackWeights::automatic;
  KvCacheType kv_cache_dtype = KvCacheType::automatic;  // fp8 is refused
  LoadFormat load_format = LoadFormat::automatic;
  LoadMode load_mode = LoadMode::mmap;  // how weights come into memory: files mapped, or read in pieces
  // A folder for packed weights, which the next start maps (plan/packed_cache.h), and the bytes that all of its files
  // may take, 0: no limit; empty: none.
  std::string packed_cache;
  int64_t packed_cache_bytes = 0;
  Device device = Device::cpu;               // cuda is refused
  int threads = 0;                           // 0: the physical cores of this process, within its group's CPU quota
  Pinning pin_threads = Pinning::automatic;  // compute threads stay on cores of their own
  int max_batch_size = 64;                   // sequences in one step
  int max_num_tokens = 2048;                 // tokens in one step
  // prompt tokens in one step at most, where prompts may be cut; 0: 512, with experts max_num_tokens
  int chunked_prefill_size = 0;
  // prompts are cut so that a step takes about this long, if it can; 0: no such limit
  double max_step_ms = 0;
  int max_seq_len = 0;          // 0: the model's
  int tokens_per_block = 32;    // a power of two
  int64_t kv_cache_memory = 0;  // bytes; 0: a share of what is free
  // A folder for blocks of the cache that sequences have left (store/file_store.h), and the bytes that it may take;
  // empty: none.
  std::string kv_cache_tier;
  int64_t kv_cache_tier_bytes = 0;
  TierUse kv_cache_tier_use = TierUse::automatic;
  // Disaggregated serving (docs/serving-at-scale.md).
  ServerRole role = ServerRole::both;
  std::string
      kv_transfer;  // "HOST:PORT" where others get blocks from this one's cache; port 0: a free one; empty: nowhere
  TransferCarrier kv_transfer_carrier = TransferCarrier::tcp;
  std::string kv_transfer_secret;  // that both sides know; empty: none, on loopback addresses only
  int kv_transfer_timeout = 120;   // seconds that a prompt waits for blocks of another server; then it is computed here
  // Servers of the deployment may differ in --kv-cache-dtype: blocks are converted, which changes answers.
  bool kv_transfer_convert = false;
  int max_local_prefill = 0;  // prompts with no more tokens to compute than this are not sent to another server
  int kv_cache_events = 0;    // changes of the cache's index that are kept until they are fetched; 0: none
  bool enable_chunked_prefill = true;
  bool enable_block_reuse = true;
  bool overlap_scheduler = true;
  bool cuda_graph = true;    // step-plan replay on a CPU
  bool measure_ops = false;  // for Engine::op_times()
  SamplerKind sampler = SamplerKind::fused;
  std::string speculative_config;  // JSON (api/speculative_config.h); empty: as `speculation` below says
  std::string guided_decoding_backend = "llguidance";
  bool strict_schemas = false;  // refuse keywords of JSON schemas that cannot be enforced, instead of warning
  ReasoningParser reasoning_parser = ReasoningParser::automatic;
  std::string tool_call_parser = "auto";  // auto (by the chat template) | a name of forms/tool_form.h
  std::string chat_template;              // a file with a template instead of the model's; empty: none
  std::string mmproj;  // GGUF: the file with the encoder of images; empty: mmproj*.gguf in the model's folder
  LoraOptions lora;
  std::vector<std::string> logits_processors;  // plugin files (include/weft/logits_processor.h)
  int tp_size = 1, pp_size = 1;
  int ep_size = 0;  // sets of ranks with different experts, a divisor of tp_size or more than it; 0: as many as can be
  bool enable_attention_dp = false;
  // Attention data parallelism: prompts may wait for others, so that no rank is idle while some compute theirs, up to a
  // tenth of this, the time to the first token that is aimed at; 0: they never wait
  double ttft_target_ms = 0;
  int rank_deadline = 30;  // seconds without a word from a rank in another process, after which all of them end
  std::vector<std::string> allowed_media_domains;  // hosts that images may be fetched from; empty: data: URLs only
  RequestLimits limits;                            // of each request
  MediaLimits media_limits;                        // what images of requests may take
  GenerationConfig generation_config = GenerationConfig::automatic;
  int64_t seed = -1;          // of requests without one; -1: random for each
  AdmissionLimits admission;  // of `weft serve`

  // In a program only: kinds of logits processors of its own, beside those of the plugins.
  std::vector<std::shared_ptr<const LogitsProcessorKind>> logits_processor_kinds;
  // What speculative_config says, once the engine is loaded; a program may set it instead of the text.
  SpeculationOptions speculation;
  // In a program only: proposes drafts in place of n-grams (spec/drafter.h), as many as `speculation` says. Needs no
  // method there.
  std::shared_ptr<Drafter> drafter;
  // In a program only: scores come with what the drafts' model makes of the prompt (`weft score`).
  bool draft_scores = false;
  // In a program only: where the values of all ops go (plan/trace.h). Slow.
  std::shared_ptr<PlanTrace> trace;
};

// How the options share a model out.
RankLayout rank_layout(const EngineOptions& options);

// A number of a request that commands have an option for.
struct SamplingOption {
  const char* name;  // in requests; with dashes on the command line
  const char* help;
  bool whole;  // takes whole numbers only
};
// In the order of --help: those of sampling/parameters.h that have an option.
std::vector<SamplingOption> sampling_options();

// What is wrong with the options by themselves, or cannot be honoured by this build; the error names the option.
Status check_options(const EngineOptions& options);

}  // namespace weft
