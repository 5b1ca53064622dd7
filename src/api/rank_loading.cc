#include "api/rank_loading.h"

#include <algorithm>
#include <mutex>

#include "api/speculative_config.h"
#include "base/cpu_layout.h"
#include "base/log.h"
#include "base/sha256.h"

namespace weft {

namespace {

// ---- Processes -----------------------------------------------------------------------------------------------------

struct Joined {
  std::mutex mutex;
  bool tried = false, several = false, taken = false;
  std::shared_ptr<ProcessRanks> processes;
  std::optional<Error> error;
};

Joined& joined() {
  static Joined one;
  return one;
}

Status join(Joined& all, const EngineOptions& options) {
  if (!std::exchange(all.tried, true)) {
    auto processes = ProcessRanks::join({.deadline = static_cast<double>(options.rank_deadline)});
    if (processes.ok()) all.processes = std::move(processes).value();
    else all.error = processes.error();
    all.several = all.processes != nullptr;
  }
  if (all.error) return *all.error;
  return {};
}

// What must be the same on all ranks for their bits to be.
ProcessRanks::Facts facts_of(const std::string& path, const EngineOptions& o) {
  const kernels::CpuTable* table = kernels::cpu_table();
  const RankLayout layout = rank_layout(o);
  return {{"version", WEFT_VERSION},
          {"instruction set", table ? table->isa : "none"},
          {"checkpoint", checkpoint_digest(path, o)},
          {"--tp-size", std::to_string(layout.tensor)},
          {"--pp-size", std::to_string(layout.pipeline)},
          {"--ep-size", std::to_string(layout.experts)},
          {"--enable-attention-dp", layout.attention_dp ? "on" : "off"},
          {"--dtype", name_of(o.dtype)},
          {"--quantize", name_of(o.quantize)},
          {"--dequantize", o.dequantize ? "on" : "off"},
          {"--activation-quantization", name_of(o.activation_quantization)},
          {"--pack-weights", name_of(o.pack_weights)},
          {"--kv-cache-dtype", name_of(o.kv_cache_dtype)},
          {"--max-seq-len", std::to_string(o.max_seq_len)},
          {"--max-lora-rank", std::to_string(o.lora.any() ? o.lora.max_rank : 0)},
          {"--load-format", name_of(o.load_format)},
          {"--speculative-config", o.speculative_config},
          {"--rank-deadline", std::to_string(o.rank_deadline)}};
}

// ---- Threads -------------------------------------------------------------------------------------------------------

int processes_here(const ProcessRanks& processes) {
  int count = 0;
  for (int rank = 0; rank < processes.size(); ++rank) count += processes.host(rank) == processes.host(processes.rank());
  return count;
}

// Threads in equal shares for all ranks of this process; at least one each. Processes on one machine that may all use
// the same processors share these.
Result<std::unique_ptr<RankTeam>> make_ranks(const EngineOptions& options,
                                             const std::shared_ptr<ProcessRanks>& processes) {
  const CpuLayout cpus = read_cpu_layout();
  const RankLayout layout = rank_layout(options);
  const int ranks = layout.size() / (processes ? processes->size() : 1);
  const bool shared = processes && cpus.forbidden.empty();
  const int own = std::max(1, default_threads(cpus) / (shared ? processes_here(*processes) : 1));
  const int threads = std::max(1, (options.threads > 0 ? options.threads : own) / ranks) * ranks;
  WEFT_TRY(std::vector<std::vector<int>> places, place_threads(cpus, threads, options.pin_threads));
  const bool on_nodes = cpus.nodes().size() > 1 && !places[0].empty();
  auto team = std::make_unique<ThreadTeam>(std::move(places), on_nodes);
  if (processes) return std::make_unique<RankTeam>(std::move(team), layout, processes);
  return std::make_unique<RankTeam>(std::move(team), layout);
}

// ---- Models --------------------------------------------------------------------------------------------------------

// The draft's options as they are in force.
Result<SpeculationOptions> speculation_of(const EngineOptions& options) {
  SpeculationOptions speculation = options.speculation;
  if (!options.speculative_config.empty()) {
    WEFT_TRY(speculation, read_speculation(options.speculative_config));
  }
  if (options.drafter && speculation.method == DraftMethod::none) speculation.method = DraftMethod::ngram;
  return speculation;
}

// Models that generate nothing have nothing to draft: "auto" is off there.
Status check_target(const Model& model, SpeculationOptions& speculation) {
  if (model.plan().head == HeadKind::lm || speculation.method == DraftMethod::none) return {};
  if (speculation.method == DraftMethod::automatic) return speculation = SpeculationOptions(), Status();
  return fail(Code::unsupported, "--speculative-config ", name_of(speculation.method), ": ", model.architecture,
              " generates no tokens, so there is nothing to draft")
      .about("speculative-config");
}

Status load_draft_of(const EngineOptions& options, const ModelOptions& model_options,
                     const std::shared_ptr<ProcessRanks>& processes, LoadedModel& loaded) {
  const SpeculationOptions& speculation = loaded.speculation;
  if (!has_model(speculation.method)) return {};
  if (speculation.threads > 0) {
    EngineOptions own = options;
    own.threads = speculation.threads;
    WEFT_TRY(loaded.draft_ranks, make_ranks(own, processes));
  }
  auto draft =
      load_draft(speculation, loaded.model, model_options, loaded.draft_ranks ? *loaded.draft_ranks : *loaded.ranks);
  if (!draft.ok()) return std::move(draft).error().about("speculative-config");
  loaded.draft = std::move(draft).value();
  return {};
}

Status load_models(const std::string& path, const EngineOptions& options,
                   const std::shared_ptr<ProcessRanks>& processes, const Progress& progress, LoadedModel& loaded) {
  ModelOptions model_options{.dtype = options.dtype,
                             .kv_dtype = options.kv_cache_dtype,
                             .max_seq_len = options.max_seq_len,
                             .dummy = options.load_format == LoadFormat::dummy,
                             .load_mode = options.load_mode,
                             .mmproj = options.mmproj,
                             .quantize = options.quantize,
                             .dequantize = options.dequantize,
                             .round_inputs = options.activation_quantization == ActivationQuantization::checkpoint,
                             .pack_weights = options.pack_weights,
                             .max_lora_rank = options.lora.any() ? options.lora.max_rank : 0,
                             .progress = progress};
  if (!options.packed_cache.empty()) {
    // Ranks in other processes could not take back what they have computed from a file that was damaged since.
    const LoadMode mode = processes ? LoadMode::read : options.load_mode;
    auto cache = PackedCache::open(options.packed_cache, options.packed_cache_bytes, mode);
    if (!cache.ok()) return std::move(cache).error().about("packed-cache");
    model_options.packed_cache = std::move(cache).value();
  }
  WEFT_TRY(loaded.speculation, speculation_of(options));
  auto draft_info = inspect_draft(loaded.speculation, path, model_options);
  if (!draft_info.ok()) return std::move(draft_info).error().about("speculative-config");
  loaded.speculation.method = draft_info->method, model_options.taps = draft_info->taps;
  WEFT_TRY(loaded.model, load_model(path, *loaded.ranks, model_options));
  WEFT_RETURN_IF_ERROR(check_target(loaded.model, loaded.speculation));
  WEFT_RETURN_IF_ERROR(load_draft_of(options, model_options, processes, loaded));
  // No step reads a file of the model, so that they may change from here on.
  loaded.model.checkpoint = loaded.model.checkpoint->without_files();
  if (loaded.draft && loaded.draft->model)
    loaded.draft->model->checkpoint = loaded.draft->model->checkpoint->without_files();
  return {};
}

Status check_layout(const EngineOptions& options, const ProcessRanks* processes) {
  const RankLayout layout = rank_layout(options);
  if (layout.size() > kernels::kMaxRanks)
    return fail(Code::unsupported, layout.size(), " ranks are more than ", kernels::kMaxRanks).about("tp-size");
  if (processes && !processes_fit(layout, processes->size()))
    return fail(Code::invalid_argument, processes->size(), " processes were started for ", layout.size(),
                layout.size() == 1 ? " rank" : " ranks", " (--tp-size ", layout.tensor, " times --pp-size ",
                layout.pipeline, "); there must be one process for each rank, or one for each stage")
        .about("tp-size");
  if (options.trace && layout.size() > 1)
    return fail(Code::unsupported,
                "--trace shows the values of one rank's ops; leave out --tp-size, --ep-size and --pp-size")
        .about("trace");
  if (options.trace && options.lora.any())
    return fail(Code::unsupported, "--trace shows the values of a model without adapters; leave out --lora")
        .about("trace");
  if (layout.attention_dp && layout.tensor == 1) log_warning("--enable-attention-dp on has no effect with --tp-size 1");
  return {};
}

}  // namespace

std::string checkpoint_digest(const std::string& path, const EngineOptions& options) {
  const auto opened = options.load_format == LoadFormat::dummy
                          ? Checkpoint::open_dummy(path, options.mmproj)
                          : Checkpoint::open(path, options.load_mode, options.mmproj);
  if (!opened.ok()) return opened.error().message();
  const Checkpoint& checkpoint = **opened;
  constexpr size_t kPieces = 5, kBytes = 64;  // from beginning to end
  Sha256 sum;
  const auto add = [&](const std::string& text) { sum.update(text.data(), text.size()); };
  add(checkpoint.config().dump());
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    add(name + weft::name(tensor.type));
    for (const int64_t extent : tensor.shape) add(" " + std::to_string(extent));
    const size_t bytes = std::min(kBytes, tensor.data.size());
    for (size_t i = 0; i < kPieces; ++i) {
      const auto piece = tensor.data.subspan((tensor.data.size() - bytes) / (kPieces - 1) * i, bytes);
      const auto pin = tensor.pin(piece);
      if (!pin.ok()) return pin.error().message();
      sum.update(piece.data(), piece.size());
    }
  }
  return hex_of(sum.digest()).substr(0, 16);
}

Result<std::shared_ptr<ProcessRanks>> take_processes(const EngineOptions& options) {
  Joined& all = joined();
  const std::lock_guard lock(all.mutex);
  WEFT_RETURN_IF_ERROR(join(all, options));
  if (std::exchange(all.taken, true) && all.several)
    return fail(Code::unsupported, "ranks in several processes run one engine, and this is a second one");
  return std::move(all.processes);
}

bool others_are_joined() {
  Joined& all = joined();
  const std::lock_guard lock(all.mutex);
  return all.several;
}

Result<bool> is_follower(const EngineOptions& options) {
  Joined& all = joined();
  const std::lock_guard lock(all.mutex);
  WEFT_RETURN_IF_ERROR(join(all, options));
  return all.processes && all.processes->rank() > 0;
}

Result<LoadedModel> load_on_ranks(const std::string& path, const EngineOptions& options,
                                  const std::shared_ptr<ProcessRanks>& processes, const Progress& progress) {
  if (processes) WEFT_RETURN_IF_ERROR(processes->compare(facts_of(path, options)));
  LoadedModel loaded;
  Status status = check_layout(options, processes.get());
  if (status.ok()) {
    auto ranks = make_ranks(options, processes);
    if (ranks.ok()) loaded.ranks = std::move(ranks).value();
    else status = ranks.error();
  }
  if (status.ok()) status = load_models(path, options, processes, progress, loaded);
  if (processes) status = processes->agree(status);
  if (!status.ok()) return status.error();
  return loaded;
}

}  // namespace weft
