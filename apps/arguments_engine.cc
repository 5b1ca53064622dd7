// The options of an engine.
#include <algorithm>

#include "api/speculative_config.h"
#include "arguments_parts.h"
#include "base/files.h"

namespace weft {

void add_engine_options(CLI::App* app, EngineOptions& o) {
  app->add_option("--config", "Options from a YAML file, their names with underscores")
      ->type_name("FILE.yaml");  // read before; see expand_config
  add_choice(app, "--dtype", o.dtype, "Type of weights and products");
  add_choice(app, "--quantize", o.quantize, "Quantise the weights while loading");
  add_switch(app, "--dequantize", o.dequantize,
             "Widen weights that are stored in 8 or 4 bits to --dtype while loading");
  add_choice(app, "--activation-quantization", o.activation_quantization,
             "checkpoint: round the inputs of products as the format of quantised weights says; off: more exact");
  add_choice(app, "--kv-cache-dtype", o.kv_cache_dtype, "Type of the KV cache");
  add_choice(app, "--load-format", o.load_format, "dummy: random weights from config.json alone");
  add_choice(app, "--load-mode", o.load_mode,
             "How weights come out of their files: mapped, or read in pieces, for file systems that map badly");
  add_choice(app, "--device", o.device, "Where to compute");
  add_number(app, "--threads", o.threads, "Threads; 0: the physical cores of this process, within its CPU quota", 0,
             4096);
  add_choice(app, "--pack-weights", o.pack_weights,
             "Hold bfloat16 weights in 12 bits each, with the same answers; auto: where that is faster");
  app->add_option_function<std::string>(
         "--packed-cache",
         [&o](const std::string& text) {
           const size_t colon = text.find_last_of(':');
           const auto bytes = colon == std::string::npos ? Result<int64_t>(0) : parse_size(text.substr(colon + 1));
           o.packed_cache = text == "off" ? "" : text.substr(0, colon), o.packed_cache_bytes = bytes.ok() ? *bytes : -1;
           if (text.empty() || colon == 0 || !bytes.ok())
             throw CLI::ValidationError("--packed-cache",
                                        "a folder is wanted, and a size if there is to be a limit, "
                                        "DIR or DIR:SIZE, or off; got " +
                                            text);
         },
         "Keep the weights as they are packed for this machine in this folder, up to this size in all, so that the "
         "next start maps them")
      ->type_name("DIR[:SIZE]|off")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_choice(app, "--pin-threads", o.pin_threads,
             "Keep compute threads on cores of their own; auto: where the process has cores for itself");
  add_number(app, "--max-batch-size", o.max_batch_size, "Sequences in one step", 1, 65536);
  add_number(app, "--max-num-tokens", o.max_num_tokens, "Tokens in one step", 1);
  add_number(app, "--chunked-prefill-size", o.chunked_prefill_size,
             "Prompt tokens in one step at most, so that answers go on beside long prompts; 0: 512, with experts "
             "--max-num-tokens",
             0);
  app->add_option("--max-step-ms", o.max_step_ms, "Cut prompts so that a step takes about this long; 0: no such limit")
      ->type_name("MS")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_number(app, "--max-seq-len", o.max_seq_len, "Longest sequence; 0: the model's", 0);
  add_number(app, "--tokens-per-block", o.tokens_per_block, "Tokens in a block of the KV cache, a power of two", 1,
             4096)
      ->check(CLI::Validator(
          [](std::string& text) {
            const int value = std::atoi(text.c_str());
            return (value & (value - 1)) == 0 ? std::string() : "must be a power of two, got " + text;
          },
          ""));
  app->add_option_function<std::string>(
         "--kv-cache-memory",
         [&o](const std::string& text) {
           const auto bytes = parse_size(text);
           if (!bytes.ok()) throw CLI::ValidationError("--kv-cache-memory", bytes.error().message());
           o.kv_cache_memory = *bytes;
         },
         "Memory of the KV cache, e.g. 4G or 512M; 0: a share of what is free")
      ->type_name("SIZE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app->add_option_function<std::string>(
         "--kv-cache-tier",
         [&o](const std::string& text) {
           const size_t colon = text.find_last_of(':');
           if (colon == std::string::npos || colon == 0)
             throw CLI::ValidationError("--kv-cache-tier", "a folder and a size are wanted, DIR:SIZE, got " + text);
           const auto bytes = parse_size(text.substr(colon + 1));
           if (!bytes.ok()) throw CLI::ValidationError("--kv-cache-tier", bytes.error().message());
           o.kv_cache_tier = text.substr(0, colon), o.kv_cache_tier_bytes = *bytes;
         },
         "Keep blocks of the KV cache in this folder as well, up to this size, for later requests, processes and "
         "starts")
      ->type_name("DIR:SIZE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_choice(app, "--kv-cache-tier-use", o.kv_cache_tier_use,
             "Read blocks of --kv-cache-tier where that is faster than computing them, or always");
  add_choice(app, "--role", o.role,
             "In a deployment of several servers: context computes prompts for others, generation takes blocks of the "
             "cache from them; see docs/serving-at-scale.md");
  add_text(app, "--kv-transfer", o.kv_transfer,
           "Where other servers get blocks of the KV cache; other than on this machine only with a secret",
           "HOST:PORT");
  add_choice(app, "--kv-transfer-carrier", o.kv_transfer_carrier, "What carries blocks between servers");
  app->add_option_function<std::string>(
         "--kv-transfer-secret-file",
         [&o](const std::string& path) {
           const auto secret = read_secret(path);
           if (!secret.ok()) throw CLI::ValidationError("--kv-transfer-secret-file", secret.error().message());
           o.kv_transfer_secret = *secret;
         },
         "A file with the secret that all servers of a deployment know")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_number(app, "--kv-transfer-timeout", o.kv_transfer_timeout,
             "Seconds that a prompt waits for blocks of another server before it is computed here", 1, 86400);
  add_switch(app, "--kv-transfer-convert", o.kv_transfer_convert,
             "Servers of the deployment may differ in --kv-cache-dtype: blocks are converted, which changes answers");
  add_number(app, "--max-local-prefill", o.max_local_prefill,
             "Prompts with no more tokens to compute than this are computed here, not by a context server", 0);
  add_number(app, "--kv-cache-events", o.kv_cache_events,
             "Keep this many changes of the cache's index for /kv_cache_events; 0: none", 0, 1 << 24);
  add_switch(app, "--enable-chunked-prefill", o.enable_chunked_prefill,
             "Long prompts in pieces, beside running answers");
  add_switch(app, "--enable-block-reuse", o.enable_block_reuse, "Reuse the KV cache of equal beginnings");
  add_switch(app, "--overlap-scheduler", o.overlap_scheduler, "Schedule the next step while this one runs");
  add_switch(app, "--cuda-graph", o.cuda_graph, "Replay recorded steps (on a CPU: the step plan)");
  add_choice(app, "--sampler", o.sampler, "Which of the two samplers");
  add_text(app, "--speculative-config", o.speculative_config,
           "Draft tokens and check several in a step, with the same answers; {\"method\": auto, ngram, mtp, eagle3 or "
           "draft_model, \"model\": the draft's, \"num_tokens\": 1 to 16, absent: as many as pay}; see "
           "docs/speculation.md",
           "JSON")
      ->check([](const std::string& text) {
        const auto read = read_speculation(text);
        return read.ok() ? "" : read.error().message();
      });
  add_text(app, "--guided-decoding-backend", o.guided_decoding_backend, "Grammar engine", "NAME");
  add_switch(app, "--strict-schemas", o.strict_schemas,
             "Refuse keywords of JSON schemas that cannot be enforced; off: warn");
  add_choice(app, "--reasoning-parser", o.reasoning_parser,
             "Thoughts apart from the answer; auto: as the chat template shows");
  add_text(app, "--tool-call-parser", o.tool_call_parser, "Form of tool calls; auto: as the chat template shows",
           "NAME");
  add_text(app, "--chat-template", o.chat_template, "Chat template instead of the model's", "FILE");
  add_text(app, "--mmproj", o.mmproj, "GGUF: the file with the model's encoder of images", "FILE");
  add_choice(app, "--generation-config", o.generation_config,
             "auto: sampling defaults from the model's generation_config.json; none: temperature 1 and no more");
  app->add_option("--allowed-media-domains", o.allowed_media_domains,
                  "Hosts that images may be fetched from; default: none, data: URLs only")
      ->type_name("HOST,...")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option_function<std::vector<std::string>>(
         "--lora",
         [&o](const std::vector<std::string>& words) {
           o.lora.modules.clear();
           for (const std::string& word : words) {
             const size_t equals = word.find('=');
             if (equals == std::string::npos || equals == 0 || equals + 1 == word.size())
               throw CLI::ValidationError("--lora", "a name and a path are wanted, NAME=PATH, got " + word);
             o.lora.modules.push_back({word.substr(0, equals), word.substr(equals + 1)});
           }
         },
         "LoRA adapter that requests may choose by its name (docs/lora.md); may be repeated")
      ->type_name("NAME=PATH")
      ->allow_extra_args(false);
  add_switch(app, "--allow-lora-loading", o.lora.allow_loading,
             "Load and unload adapters at run time, from paths that requests name");
  app->add_option("--logits-processor", o.logits_processors, "Plugin that changes logits; may be repeated")
      ->type_name("PLUGIN.so")
      ->allow_extra_args(false);
  add_number(app, "--tp-size", o.tp_size, "Ranks that share each layer: heads, widths, vocabulary, experts", 1, 64);
  add_number(app, "--pp-size", o.pp_size, "Pipeline stages, which have the layers in turn", 1, 64);
  add_number(app, "--ep-size", o.ep_size,
             "Sets of ranks with different experts, whose width the ranks of a set share; 0: as many as can be", 0, 64);
  add_switch(app, "--enable-attention-dp", o.enable_attention_dp,
             "Every rank of a stage computes sequences of its own, and they share the experts alone");
  app->add_option(
         "--ttft-target-ms", o.ttft_target_ms,
         "Attention data parallelism: prompts may wait a tenth of this for others, so that no rank is idle; 0: "
         "never")
      ->type_name("MS")
      ->check(CLI::NonNegativeNumber)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_number(app, "--rank-deadline", o.rank_deadline,
             "Seconds without a word from a rank in another process, after which all of them end (docs/ranks.md)", 1,
             86400);
  app->add_option("--seed", o.seed, "Seed of requests without one; -1: random for each")
      ->type_name("N")
      ->check(CLI::Range(int64_t{-1}, std::numeric_limits<int64_t>::max()))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  for (CLI::Option* option : app->get_options())
    if (option->get_name() != "--help") option->group(kEngineOptions);
  add_number(app, "--max-lora-rank", o.lora.max_rank, "Rank of an adapter's modules (400)", 1, 4096)
      ->group(kLimitOptions);
  add_limit(app, "--lora-memory", o.lora.memory, true,
            "Memory of all adapters that are held; those used least recently are read again when they are asked for "
            "(429)");
  add_request_limits(app, o.limits);
  add_media_limits(app, o.media_limits);
}

}  // namespace weft
