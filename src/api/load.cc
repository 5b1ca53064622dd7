// Engine::load(): from a path and options to a running engine, and the defaults of what the options leave open.
#include <algorithm>
#include <cstring>
#include <future>
#include <new>
#include <random>
#include <stdexcept>
#include <system_error>

#include "api/core_engine.h"
#include "api/model_info.h"
#include "api/rank_loading.h"
#include "api/scores.h"
#include "base/available_memory.h"
#include "base/log.h"
#include "base/socket_address.h"
#include "comm/process_ranks.h"
#include "sampling/parameters.h"
#include "store/file_store.h"
#include "transfer/tcp_transport.h"
#include "transfer/ucx_transport.h"

namespace weft {
namespace {

// The default of chunked_prefill_size: as many rows as products can use.
constexpr int kPrefillTokens = 512;
// Tokens; the default of max_seq_len for models that claim more.
constexpr int kLongestDefault = 1 << 20;
// Of the time to the first token, how small a part may go by while a prompt waits for the balance of ranks.
constexpr int kWaitShare = 10;
// Of the default KV cache.
constexpr int64_t kLeastCacheBytes = int64_t{64} << 20;

// The cache takes half of what is free, or less where all sequences at their longest need less. Memory is taken as it
// is used.
int64_t default_cache_bytes(int64_t per_token, int64_t max_seq_len, int64_t max_batch) {
  const int64_t wanted = per_token * (max_seq_len + 2 * 256) * max_batch;
  return std::clamp<int64_t>(wanted, kLeastCacheBytes,
                             std::max<int64_t>(static_cast<int64_t>(available_memory()) / 2, kLeastCacheBytes));
}

// Prompt tokens of a step. Experts each get a few of a step's rows only, and their weights are read for these, so with
// experts a step is as large as it may be.
int prefill_tokens(const EngineOptions& options, const Model& model) {
  if (!options.enable_chunked_prefill) return options.max_num_tokens;
  if (options.chunked_prefill_size > 0) return options.chunked_prefill_size;
  const bool experts = std::any_of(model.plan().ops.begin(), model.plan().ops.end(),
                                   [](const Op& op) { return std::holds_alternative<ExpertsOp>(op.kind); });
  return experts ? options.max_num_tokens : kPrefillTokens;
}

// Bytes of a token in the cache, of the model's layers and its draft's.
int64_t cached_bytes_per_token(const Model& model, const std::optional<DraftModel>& draft) {
  return model.kv_bytes_per_token() + (draft ? draft->kv_bytes_per_token() : 0);
}

CoreOptions core_options(const EngineOptions& options, const Model& model, const std::optional<DraftModel>& draft,
                         ProcessorKinds processors) {
  CoreOptions core{
      .max_queue = options.admission.max_queue,
      .max_queue_per_client = options.admission.max_queue_per_client,
      .max_batch_size = options.max_batch_size,
      .max_num_tokens = options.max_num_tokens,
      .max_outputs = std::max(options.max_batch_size * (1 + options.speculation.most()), 256),
      .max_seq_len = options.max_seq_len > 0 ? options.max_seq_len : std::min(model.max_positions, kLongestDefault),
      .tokens_per_block = options.tokens_per_block,
      .cache_bytes = options.kv_cache_memory,
      .cache_events = options.kv_cache_events,
      .prefill_tokens = prefill_tokens(options, model),
      .max_step_ms = options.max_step_ms,
      .balance_wait_us = static_cast<int64_t>(options.ttft_target_ms * 1000 / kWaitShare),
      .chunked_prefill = options.enable_chunked_prefill,
      .block_reuse = options.enable_block_reuse,
      .overlap = options.overlap_scheduler,
      .replay = options.cuda_graph,
      .measure_ops = options.measure_ops,
      .sampler = options.sampler,
      .processors = std::move(processors),
      .speculation = options.speculation,
      .drafter = options.drafter,
      .draft_scores = options.draft_scores,
      .trace = options.trace,
      .adapter_bytes = options.lora.memory,
      .tier_always = options.kv_cache_tier_use == TierUse::always};
  if (core.cache_bytes == 0)
    core.cache_bytes = default_cache_bytes(cached_bytes_per_token(model, draft), core.max_seq_len, core.max_batch_size);
  return core;
}

std::string draft_digest(const EngineOptions& options) {
  EngineOptions with_files = options;
  with_files.load_format = LoadFormat::automatic;
  return checkpoint_digest(options.speculation.model, with_files);
}

// All that the bits of a cached position depend on, besides the tokens in front of it. Not the ranks: blocks are kept
// and sent as all of them together have them.
std::string cache_identity(const std::string& path, const EngineOptions& options, const Model& model,
                           const std::optional<DraftModel>& draft) {
  std::string text;
  const auto line = [&](const char* name, const std::string& value) { text += name + (": " + value) + "\n"; };
  line("weft", WEFT_VERSION);
  line("instruction set", model.table->isa);
  line("checkpoint", checkpoint_digest(path, options));
  line("weights", kernels::name(model.form));
  line("quantize", name_of(options.quantize));
  line("dequantize", options.dequantize ? "on" : "off");
  line("activation quantization", name_of(options.activation_quantization));
  line("cache", name(model.kv_dtype));
  line("max-seq-len", std::to_string(options.max_seq_len));
  if (!draft) return text;
  line("draft", std::string(name_of(draft->method)) + " " + draft->name);
  if (!options.speculation.model.empty()) line("draft checkpoint", draft_digest(options));
  line("draft cache", name(draft->kv_dtype));
  return text;
}

Result<std::shared_ptr<BlockStore>> open_tier(const std::string& path, const EngineOptions& options, const Model& model,
                                              const std::string& identity, bool in_processes) {
  if (in_processes)
    return fail(Code::unsupported, "--kv-cache-tier wants all ranks in one process: leave the launcher out")
        .about("kv-cache-tier");
  int64_t block = 0;
  for (const LayerGroup& group : model.whole.groups)
    block = std::max(block, cache_block_bytes(group, model.kv_dtype, options.tokens_per_block));
  if (block > options.kv_cache_tier_bytes)
    return fail(Code::invalid_argument, "--kv-cache-tier ", options.kv_cache_tier, ":", options.kv_cache_tier_bytes,
                " is less than one block of the cache, ", block, " bytes")
        .about("kv-cache-tier");
  auto store = FileStore::open({.folder = options.kv_cache_tier,
                                .max_bytes = options.kv_cache_tier_bytes,
                                .identity = identity + "path: " + path +
                                            "\ntokens per block: " + std::to_string(options.tokens_per_block) + "\n"});
  if (!store.ok()) return std::move(store).error().about("kv-cache-tier");
  return std::shared_ptr<BlockStore>(std::move(store).value());
}

// Without a secret only this machine may ask.
Status check_listen_address(const EngineOptions& options) {
  if (options.kv_transfer.empty() || !options.kv_transfer_secret.empty()) return {};
  WEFT_TRY(const HostPort place, parse_host_port(options.kv_transfer));
  auto addresses = resolve(place);
  if (!addresses.ok()) return std::move(addresses).error().about("kv-transfer");
  for (const SocketAddress& address : *addresses)
    if (!address.loopback())
      return fail(Code::invalid_argument, "--kv-transfer ", options.kv_transfer,
                  " can be reached from other machines: that needs a --kv-transfer-secret-file")
          .about("kv-transfer");
  return {};
}

// Random bytes of the system.
Nonce random_nonce() {
  std::random_device random;
  Nonce nonce;
  for (size_t i = 0; i < nonce.size(); i += sizeof(uint32_t)) {
    const uint32_t word = random();
    std::memcpy(nonce.data() + i, &word, sizeof word);
  }
  return nonce;
}

// Sets up what is to be said to other servers, where there are any.
Status set_up_transfer(const EngineOptions& options, const Model& model, bool in_processes, CoreOptions& core) {
  if (options.role != ServerRole::generation && options.kv_transfer.empty()) return {};
  const char* const option = options.kv_transfer.empty() ? "role" : "kv-transfer";
  if (in_processes)
    return fail(Code::unsupported, "--", option, " wants all ranks in one process: leave the launcher out")
        .about(option);
  if (model.whole.groups.empty())
    return fail(Code::invalid_argument, "--", option, ": the model keeps no KV cache, so there are no blocks to send")
        .about(option);
  WEFT_RETURN_IF_ERROR(check_listen_address(options));
  std::string identity = core.identity;
  if (options.tokens_per_block < kernels::kTileTokens)  // smaller blocks go between equals only
    identity += "tokens per block: " + std::to_string(options.tokens_per_block) + "\n";
  if (options.kv_transfer_convert) {
    identity += std::string(kConverts) + "\n";
    log_warning(
        "--kv-transfer-convert: blocks of servers with another --kv-cache-dtype are converted, which changes "
        "answers");
  }
  core.exchange = {.link = {identity, options.kv_transfer_secret, random_nonce},
                   .time_limit = static_cast<double>(options.kv_transfer_timeout),
                   .convert = options.kv_transfer_convert,
                   .max_local = options.max_local_prefill,
                   .listen = options.kv_transfer};
  core.transport = [carrier = options.kv_transfer_carrier](ChannelHandler& handler) {
    return carrier == TransferCarrier::ucx ? load_ucx_transport(handler) : make_tcp_transport(handler);
  };
  return {};
}

// What generation_config.json says about sampling, where it makes sense.
SamplingParams sampling_defaults(const Json& file) {
  SamplingParams params;
  for (const SamplingParameter& parameter : sampling_parameters()) {
    const Json* value = parameter.in_generation_config ? file.find(parameter.name) : nullptr;
    if (!value || value->is_null()) continue;
    SamplingParams changed = params;
    if (value->is_number() && set_value(parameter, value->as_number(), changed) && check_range(parameter, changed).ok())
      params = changed;
    else log_warning("generation_config.json: ", parameter.name, " is ", value->dump(), " and ignored");
  }
  const Json* sample = file.find("do_sample");
  if (sample && sample->is_bool() && !sample->as_bool()) params.temperature = 0;
  return params;
}

std::string model_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::string name = path.substr(path.find_last_of('/') + 1);
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return name;
}

// All but max_seq_len, which the core decides. A text side that the model cannot use loses its image processor.
ModelInfo model_info(const std::string& path, const Model& model, int threads, int64_t cache_bytes, TextSide& text) {
  ModelInfo info = describe(model);
  info.name = model_name(path), info.path = path, info.threads = threads;
  info.kv_cache_bytes = cache_bytes;
  if (model.plan().head == HeadKind::classify_first) info.labels = label_names(model.checkpoint->config());
  info.takes_images = text.media != nullptr && model.vision.has_value();
  if (!info.takes_images) text.media.reset();
  info.has_chat_template = text.chat_template != nullptr;
  return info;
}

// `doing`: what is being done, for errors.
Result<std::unique_ptr<Engine>> load_engine(const std::string& path, const EngineOptions& given,
                                            const Progress& progress, const char*& doing) {
  EngineOptions options = given;
  WEFT_TRY(std::shared_ptr<ProcessRanks> processes, take_processes(options));
  Status ready = check_options(options);
  if (processes && processes->rank() > 0)
    ready = fail(Code::unsupported, "a process that follows rank 0 calls follow_rank_0() and loads no engine");
  ProcessorKinds processors;
  if (ready.ok()) {
    auto kinds = load_logits_plugins(options.logits_processors, options.logits_processor_kinds);
    if (kinds.ok()) processors = std::move(kinds).value();
    else ready = kinds.error();
  }
  if (processes) ready = processes->agree(ready);
  if (!ready.ok()) return ready.error();
  FileStamps files = text_files(path);
  if (!options.chat_template.empty()) files.add(options.chat_template);
  // The tokenizer takes about as long as the weights, so both are read at once.
  doing = "weights and tokenizer are read";
  auto text_side = std::async(std::launch::async, load_text, path, options.chat_template, options.mmproj);
  WEFT_TRY(LoadedModel loaded, load_on_ranks(path, options, processes, progress));
  options.speculation = loaded.speculation;
  Model& model = loaded.model;
  WEFT_TRY(TextSide text, text_side.get());
  if (text.tokenizer && model.checkpoint->is_gguf()) model.add_end_ids(named_end_ids(*text.tokenizer));
  else if (text.tokenizer && text.tokenizer->eos_id()) model.add_end_ids({*text.tokenizer->eos_id()});
  if (options.max_seq_len > model.max_positions) {
    if (model.learned_positions)
      return fail(Code::invalid_argument, "--max-seq-len ", options.max_seq_len, " is more than the model's ",
                  model.max_positions, " (", model.max_positions_from, "), and its positions are learned")
          .about("max-seq-len");
    log_warning("--max-seq-len ", options.max_seq_len, " is more than the model's ", model.max_positions, " (",
                model.max_positions_from, "): answers beyond that may be poor");
  }
  doing = "the engine is made";
  CoreOptions core = core_options(options, model, loaded.draft, std::move(processors));
  core.identity = cache_identity(path, options, model, loaded.draft);
  // Text, weights and digests were read at different times, and must be of the same files.
  files.add(model.checkpoint->stamps());
  if (loaded.draft) files.add(loaded.draft->files);
  WEFT_RETURN_IF_ERROR(files.check());
  if (!options.kv_cache_tier.empty()) {
    WEFT_TRY(core.store, open_tier(path, options, model, core.identity, processes != nullptr));
  }
  WEFT_RETURN_IF_ERROR(set_up_transfer(options, model, processes != nullptr, core));
  ModelInfo info = model_info(path, model, loaded.ranks->threads().size(), core.cache_bytes, text);
  info.rank_count = loaded.ranks->layout().size();
  for (int r = 0; r < loaded.ranks->ranks(); ++r) {
    const PlanShare& share = model.shares.ranks[static_cast<size_t>(r)];
    info.ranks.push_back({loaded.ranks->first_rank() + r, share.weights.bytes,
                          kv_bytes_per_token(share.plan.groups, model.kv_dtype), share.load_seconds});
  }
  WEFT_TRY(std::unique_ptr<EngineCore> running,
           EngineCore::create(std::move(model), std::move(loaded.ranks), core, std::move(loaded.draft),
                              std::move(loaded.draft_ranks)));
  doing = "adapters are read";
  for (const LoraModule& module : options.lora.modules)
    if (Status added = running->adapters()->add(module.name, module.path); !added.ok())
      return Error(added.error()).with("--lora " + module.name).about("lora");
  info.max_seq_len = running->options().max_seq_len;
  if (info.max_seq_len < options.max_seq_len)
    return fail(Code::resource_exhausted, "--max-seq-len ", options.max_seq_len, " does not fit: the KV cache of ",
                core.cache_bytes, " bytes holds ", info.max_seq_len, " tokens of one sequence; raise --kv-cache-memory")
        .about("max-seq-len");
  SamplingParams defaults;
  if (options.generation_config == GenerationConfig::automatic)
    defaults = sampling_defaults(running->model().checkpoint->generation_config());
  return std::unique_ptr<Engine>(
      std::make_unique<CoreEngine>(std::move(running), std::move(text), options, std::move(info), std::move(defaults)));
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::load(const std::string& path, const EngineOptions& given,
                                             const Progress& progress) {
  const char* doing = "the options are checked";
  const auto failed = [&](const std::exception& thrown) {
    return fail(Code::resource_exhausted, thrown.what(), " (loading ", path, ", while ", doing, ")");
  };
  try {
    return load_engine(path, given, progress, doing);
  } catch (const std::bad_alloc& thrown) {
    return failed(thrown);
  } catch (const std::length_error& thrown) {  // more elements than any memory holds
    return failed(thrown);
  } catch (const std::system_error& thrown) {  // no thread
    return failed(thrown);
  }
}

}  // namespace weft
