// Everything that can be set about an engine, under the same names on the command line (dashes), in the configuration
// file (underscores) and here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace weft {

enum class Quantize : uint8_t;       // plan/weight_formats.h
enum class Pinning : unsigned char;  // base/cpu_layout.h
enum class PackWeights : uint8_t;    // plan/weights.h

class LogitsProcessorKind;
class PlanTrace;

struct EngineOptions {
  std::string dtype = "auto";           // auto | float32 | bfloat16: of weights and products
  std::string quantize = "none";        // none | int8 | int4: of the weights, while loading
  bool dequantize = false;              // widen weights that are stored in 8 or 4 bits to dtype while loading
  std::string pack_weights = "auto";    // auto | on | off: bfloat16 weights in 12 bits, without loss
  std::string kv_cache_dtype = "auto";  // auto | float32 | bfloat16 | int8 (fp8 is refused)
  std::string load_format = "auto";     // auto | dummy (random weights from config.json alone)
  std::string device = "cpu";           // cpu | cuda
  int threads = 0;                      // 0: the physical cores that this process may use, within its group's CPU quota
  // auto | on | off: compute threads stay on cores of their own (base/cpu_layout.h)
  std::string pin_threads = "auto";
  int max_batch_size = 64;    // sequences in one step
  int max_num_tokens = 2048;  // tokens in one step
  // prompt tokens in one step at most, where prompts may be cut; 0: 512, with experts max_num_tokens
  int chunked_prefill_size = 0;
  // prompts are cut so that a step takes about this long, if it can; 0: no such limit
  double max_step_ms = 0;
  int max_seq_len = 0;          // 0: the model's
  int tokens_per_block = 32;    // a power of two
  int64_t kv_cache_memory = 0;  // bytes; 0: a share of what is free
  int kv_cache_events = 0;      // changes of the cache's index that are kept until they are fetched; 0: none
  bool enable_chunked_prefill = true;
  bool enable_block_reuse = true;
  bool overlap_scheduler = true;
  bool cuda_graph = true;          // step-plan replay on a CPU
  bool measure_ops = false;        // for Engine::op_times()
  std::string sampler = "fused";   // fused | reference
  std::string speculative_config;  // JSON, empty: none
  std::string guided_decoding_backend = "llguidance";
  std::string reasoning_parser = "auto";       // auto (by the chat template) | none | think ("<think>...</think>")
  std::string tool_call_parser = "auto";       // auto (by the chat template) | a name of text/answer_format.h
  std::vector<std::string> logits_processors;  // plugin files (include/weft/logits_processor.h)
  int tp_size = 1, pp_size = 1, ep_size = 1;
  bool enable_attention_dp = false;
  std::vector<std::string> allowed_media_domains;  // hosts that images may be fetched from; empty: data: URLs only
  int64_t seed = -1;                               // of requests without one; -1: random for each

  // In a program only: kinds of logits processors of its own, beside those of the plugins.
  std::vector<std::shared_ptr<const LogitsProcessorKind>> logits_processor_kinds;
  // In a program only: where the values of all ops go (plan/trace.h). Slow.
  std::shared_ptr<PlanTrace> trace;
};

// The option's value; nothing for a name that is none.
std::optional<Quantize> quantize_of(const std::string& name);
std::optional<PackWeights> pack_weights_of(const std::string& name);
std::optional<Pinning> pinning_of(const std::string& name);
// What is wrong with the options by themselves, or cannot be honoured by this build; the error names the option.
Status check_options(const EngineOptions& options);

}  // namespace weft
