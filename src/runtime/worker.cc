#include "runtime/worker.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace weft {

void StepMasks::begin(int rows, int words) {
  row_words_ = static_cast<size_t>(words);
  words_.assign(static_cast<size_t>(rows) * row_words_, ~0u);
  missing_.store(rows, std::memory_order_release);
}

void StepMasks::wait() const {
  for (int missing = missing_.load(std::memory_order_acquire); missing > 0;
       missing = missing_.load(std::memory_order_acquire))
    missing_.wait(missing, std::memory_order_acquire);
}

int64_t cache_block_bytes(const LayerGroup& group, DType dtype, int tokens_per_block) {
  CacheSpec spec = group.spec;
  spec.dtype = dtype;
  const int64_t bytes = static_cast<int64_t>(kernels::cache_layer_bytes(spec, tokens_per_block)) * group.layers;
  return (bytes + 4095) / 4096 * 4096;
}

Worker::Worker(Model model, const RankTeam& ranks, const RankTeam& draft_ranks, WorkerOptions options)
    : model_(std::move(model)), ranks_(ranks), draft_ranks_(draft_ranks), team_(ranks.threads()),
      options_(std::move(options)), cache_memory_(model_.shares.size()), block_bytes_(model_.shares.size()) {
  tail_ = [this](kernels::Part part) { finish_walk(part); };
}

Result<std::unique_ptr<Worker>> Worker::create(Model model, std::optional<DraftModel> draft, const RankTeam& ranks,
                                               const RankTeam& draft_ranks, WorkerOptions options) {
  std::unique_ptr<Worker> worker(new Worker(std::move(model), ranks, draft_ranks, std::move(options)));
  WEFT_RETURN_IF_ERROR(worker->allocate(std::move(draft)));
  return worker;
}

// Memory for the blocks of these groups (per rank), behind that of the groups before.
Result<std::vector<CacheMemory>> Worker::reserve_groups(const std::vector<std::vector<LayerGroup>>& groups,
                                                        DType dtype) {
  std::vector<CacheMemory> caches;
  for (size_t rank = 0; rank < groups.size(); ++rank) {
    CacheMemory& cache = caches.emplace_back();
    cache.tokens_per_block = options_.tokens_per_block;
    cache.dtype = dtype;
    for (const LayerGroup& group : groups[rank]) {
      const auto bytes = static_cast<size_t>(cache_block_bytes(group, dtype, options_.tokens_per_block));
      WEFT_TRY(Memory memory, Memory::reserve(bytes * options_.max_blocks[block_bytes_[rank].size()], true));
      cache.base.push_back(memory.data());
      cache.block_stride_bytes.push_back(bytes);
      block_bytes_[rank].push_back(bytes);
      cache_memory_[rank].push_back(std::move(memory));
    }
  }
  return caches;
}

// Memory for the keys of images, for every slot.
Status Worker::reserve_cross(std::vector<CacheMemory>& caches) {
  if (!model_.plan().cross_group || !model_.vision) return {};
  cross_blocks_ = (kMaxCrossImages * model_.vision->most_keys + kCrossBlock - 1) / kCrossBlock;
  for (size_t rank = 0; rank < caches.size(); ++rank) {
    const LayerGroup& group = *model_.shares[rank].plan.cross_group;
    caches[rank].cross_stride_bytes = static_cast<size_t>(cache_block_bytes(group, model_.kv_dtype, kCrossBlock));
    WEFT_TRY(Memory memory,
             Memory::reserve(caches[rank].cross_stride_bytes * cross_blocks_ * options_.max_batch_size, true));
    caches[rank].cross_base = memory.data();
    cross_memory_.push_back(std::move(memory));
  }
  return {};
}

Status Worker::allocate(std::optional<DraftModel> draft) {
  std::vector<std::vector<LayerGroup>> groups;
  for (const PlanShare& share : model_.shares) groups.push_back(share.plan.groups);
  WEFT_TRY(std::vector<CacheMemory> caches, reserve_groups(groups, model_.kv_dtype));
  for (CacheMemory& cache : caches) cache.local_dtype = model_.local_kv_dtype();
  WEFT_RETURN_IF_ERROR(reserve_cross(caches));
  executor_ = std::make_unique<RankedExecutor>(
      model_.shares, *model_.table, ranks_, std::move(caches),
      ExecutorLimits{options_.max_num_tokens, options_.max_outputs, options_.max_batch_size, options_.max_seq_len});
  table_blocks_ = (options_.max_seq_len + options_.tokens_per_block - 1) / options_.tokens_per_block;
  for (GroupInputs& group : executor_->inputs().groups)
    group.block_table.resize(static_cast<size_t>(options_.max_batch_size) * static_cast<size_t>(table_blocks_));
  if (draft) {
    WEFT_TRY(std::vector<CacheMemory> own, reserve_groups(ModelDrafter::groups_of(*draft), draft->kv_dtype));
    const DrafterLimits limits{options_.max_num_tokens, options_.max_batch_size, options_.max_seq_len,
                               options_.most_drafts, options_.draft_scores};
    WEFT_TRY(model_drafter_, ModelDrafter::create(std::move(*draft), model_, draft_ranks_, std::move(own), limits));
  }
  if (options_.measure_ops) executor_->measure_ops();
  if (options_.trace) executor_->trace(*options_.trace);
  processors_ = std::make_unique<ProcessorStage>(options_.processors, options_.max_batch_size, model_.vocab);
  for (int i = 0; i < options_.max_batch_size; ++i) slots_.emplace_back(SlotState(model_.vocab, options_.max_seq_len));
  for (int i = 0; i < team_.size(); ++i)
    scratch_.push_back(std::make_unique<Scratch>(model_.vocab, options_.max_seq_len));
  return {};
}

void Worker::open_slots(const StepBatch& batch) {
  for (Slot slot : batch.closes) {
    SlotState& sampler = slots_[slot].sampler;
    if (options_.drafter && sampler.is_open()) options_.drafter->close(slot, sampler.tokens(), sampler.prompt_tokens());
    sampler.close();
    processors_->close(slot);
    slots_[slot].media.reset();
    for (size_t rank = 0; rank < cross_memory_.size(); ++rank) {
      const size_t bytes = cross_slot_bytes(static_cast<int>(rank));
      cross_memory_[rank].release(slot * bytes, bytes);
    }
  }
  for (const SlotOpen& open : batch.opens) {
    SlotData& slot = slots_[open.slot];
    slot.prompt = open.prompt;
    slot.token_types = open.token_types;
    slot.media = open.media;
    if (cross_blocks_ > 0 && slot.media) open_images(open.slot);
    slot.last_token = 0;
    slot.max_outputs = open.max_outputs;
    slot.drafts.clear();
    slot.first_key = 0, slot.drafted_to = -1;
    if (model_drafter_) model_drafter_->open(open.slot);
    if (options_.drafter && open.sampling) options_.drafter->open(open.slot, open.salt);
    slot.error.clear();
    if (!open.sampling) continue;
    auto processors = processors_->open(open.slot, *open.sampling);
    if (processors.ok()) {
      slot.sampler.open(open.sampling, open.prompt, open.output, std::move(processors).value());
    } else {
      slot.error = processors.error().message();
      slot.sampler.open(open.sampling, open.prompt, open.output);
    }
  }
}

void Worker::copy_blocks(const StepBatch& batch) {
  // Whole blocks: what lies behind the copied tokens is overwritten before it is read.
  for (size_t rank = 0; rank < cache_memory_.size(); ++rank) {
    for (const BlockCopy& copy : batch.copies) {
      std::byte* base = cache_memory_[rank][copy.group].data();
      const size_t bytes = block_bytes_[rank][copy.group];
      std::memcpy(base + copy.to * bytes, base + copy.from * bytes, bytes);
    }
    for (const BlockRelease& release : batch.releases) {
      const size_t bytes = block_bytes_[rank][release.group];
      cache_memory_[rank][release.group].release(release.block * bytes, bytes);
    }
  }
}

void Worker::update_tables(const StepBatch& batch) {
  for (const TableEntry& entry : batch.entries) {
    WEFT_CHECK(entry.number < table_blocks_) << "slot " << entry.slot << " has a block number " << entry.number;
    const int own = static_cast<int>(model_.plan().groups.size());
    std::vector<int32_t>& table = entry.group < own ? executor_->inputs().groups[entry.group].block_table
                                                    : model_drafter_->block_table(entry.group - own);
    table[static_cast<size_t>(entry.slot) * table_blocks_ + entry.number] = entry.block;
  }
}

void Worker::plan_sampling(const StepBatch& batch, const StepMasks& masks, StepResult& result) {
  sample_rows_.clear(), prompt_rows_.clear();
  result.step = batch.step;
  result.rows.resize(batch.rows.size());
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    RowResult& out = result.rows[r];
    out.slot = batch.rows[r].slot;
    out.tokens.clear(), out.logprobs.clear(), out.prompt_logprobs.clear(), out.outputs.clear(), out.error.clear();
    out.drafted = 0, out.drafts.clear(), out.draft_scores.clear();
    if (batch.rows[r].prompt_logprobs) plan_prompt_rows(r, out);
    rows_[r].first_sample = static_cast<int>(sample_rows_.size());
    if (batch.rows[r].sample && rows_[r].tokens > 0) plan_samples(batch.rows[r], rows_[r], masks, out);
  }
  processors_->begin();
  processed_.store(false, std::memory_order_relaxed);
  for (size_t r = 0; r < rows_.size(); ++r)
    for (int i = 0; i < rows_[r].samples; ++i)
      processors_->add(batch.rows[r].slot, sample_rows_[static_cast<size_t>(rows_[r].first_sample + i)]);
  size_t next = 0;
  for (RowResult& row : result.rows)
    for (std::vector<TokenLogprob>& entry : row.prompt_logprobs) prompt_rows_[next++].out = &entry;
  prompt_errors_.assign(prompt_rows_.size(), {});
}

void Worker::plan_prompt_rows(size_t r, RowResult& out) {
  const StepRow& row = rows_[r];
  const SlotData& slot = slots_[row.slot];
  const int prompt = static_cast<int>(slot.prompt.size());
  for (int i = 0; i < row.tokens && row.first + i + 1 < prompt; ++i)
    prompt_rows_.push_back({static_cast<int>(r), row.first_output + i, slot.prompt[row.first + i + 1],
                            slot.sampler.params().prompt_logprobs, nullptr});
  out.prompt_logprobs.resize(std::max(0, std::min(row.tokens, prompt - row.first - 1)));
}

// A sample behind the row's last token, and one behind each draft as if those before it were accepted.
void Worker::plan_samples(const StepBatch::Row& row, StepRow& at, const StepMasks& masks, RowResult& out) {
  const SlotData& slot = slots_[row.slot];
  const bool listed = slot.sampler.params().logprobs >= 0 || slot.sampler.params().beam_candidates > 0;
  at.samples = 1 + at.drafts;
  if (listed) out.logprobs.resize(static_cast<size_t>(at.samples));
  for (int i = 0; i < at.samples; ++i) {
    SampleRow sample;
    const int output = at.first_output + at.outputs - at.samples + i;
    sample.logits = {executor_->output() + output * executor_->output_ld(), static_cast<size_t>(model_.vocab)};
    sample.state = &slot.sampler;
    sample.pending = std::span(slot.drafts).first(static_cast<size_t>(i));
    sample.error = slot.error;
    if (row.guide >= 0) sample.mask = masks.data(row.guide + i);
    if (listed) sample.logprobs = &out.logprobs[static_cast<size_t>(i)];
    sample_rows_.push_back(std::move(sample));
  }
}

// Batched processors: one thread, while the others wait.
void Worker::run_processors(kernels::Part part) {
  if (processors_->empty()) return;
  if (part.index == 0) {
    processors_->run();
    processed_.store(true, std::memory_order_release);
    processed_.notify_all();
  } else {
    processed_.wait(false, std::memory_order_acquire);
  }
}

// Behind the step's last op: samples, and drafts that are made in the same walk.
void Worker::finish_walk(kernels::Part part) {
  sample(part);
  if (!model_drafter_ || !options_.draft_in_walk) return;
  team_.barrier();
  if (part.index == 0) {
    collect(*batch_, *result_);
    begin_drafts(*batch_, *result_);
  }
  team_.barrier();
  if (!draft_rows_.empty()) model_drafter_->walk(part);
}

void Worker::sample(kernels::Part part) {
  masks_->wait();
  if (part.index == 0) sampling_began_ = std::chrono::steady_clock::now();
  run_processors(part);
  sample_rows(options_.sampler, sample_rows_, part.index, part.count, *scratch_[part.index]);
  for (size_t i = part.index; i < prompt_rows_.size(); i += part.count) {
    const PromptRow& row = prompt_rows_[i];
    const std::span<const float> logits{executor_->output() + row.output_row * executor_->output_ld(),
                                        static_cast<size_t>(model_.vocab)};
    prompt_errors_[i] = raw_logprobs(logits, row.next, row.k, *scratch_[part.index], *row.out);
  }
}

// Takes the samples up to the first that is not what was drafted. A sample that failed behind an accepted draft is left
// to the next step, which will find it at its first place.
void Worker::accept(StepRow& at, RowResult& out) {
  SlotData& slot = slots_[at.slot];
  for (int i = 0; i < at.samples; ++i) {
    SampleRow& sample = sample_rows_[static_cast<size_t>(at.first_sample + i)];
    if (!sample.error.empty()) {
      if (i == 0) out.error = std::move(sample.error);
      break;
    }
    out.tokens.push_back(sample.token);
    slot.last_token = sample.token;
    if (i < at.drafts && sample.token != slot.drafts[static_cast<size_t>(i)]) break;
  }
  out.drafted = at.drafts;
  for (const int32_t token : out.tokens) slot.sampler.append(token);
  if (!out.logprobs.empty()) out.logprobs.resize(out.tokens.size());
  slot.drafts.clear();
}

void Worker::collect(const StepBatch& batch, StepResult& result) {
  sample_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - sampling_began_).count();
  for (size_t r = 0; r < rows_.size(); ++r) accept(rows_[r], result.rows[r]);
  for (size_t i = 0; i < prompt_rows_.size(); ++i)
    if (!prompt_errors_[i].empty()) result.rows[prompt_rows_[i].row].error = prompt_errors_[i];
  collect_outputs(batch, result);
}

void Worker::collect_outputs(const StepBatch& batch, StepResult& result) {
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    const StepRow& at = rows_[r];
    std::vector<float>& outputs = result.rows[r].outputs;
    const auto add = [&](int output_row) {
      const float* from = executor_->output() + output_row * executor_->output_ld();
      outputs.insert(outputs.end(), from, from + executor_->output_cols());
    };
    if (row.context_logits)
      for (int i = 0; i < at.outputs; ++i) add(at.first_output + i);
    if (row.generation_logits)
      for (int i = 0; i < static_cast<int>(result.rows[r].tokens.size()); ++i)
        add(at.first_output + at.outputs - at.samples + i);
  }
}

// Drafts from the text, for the sequences' next rows.
void Worker::propose(const StepBatch& batch, StepResult& result) {
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    SlotData& slot = slots_[row.slot];
    RowResult& out = result.rows[r];
    if (row.propose <= 0 || out.tokens.empty() || !out.error.empty()) continue;
    const std::span<const int32_t> tokens = slot.sampler.tokens();
    const int left = slot.sampler.prompt_tokens() + slot.max_outputs - static_cast<int>(tokens.size());
    const int most = std::min(row.propose, left);
    if (most <= 0) continue;
    options_.drafter->propose(
        {row.slot, tokens, slot.sampler.prompt_tokens(), &slot.sampler.params(), slot.media.get()}, most, slot.drafts);
    keep_valid(slot.drafts, most);
    out.drafts = slot.drafts;
  }
}

// What no plan could look up ends the drafts.
void Worker::keep_valid(std::vector<int32_t>& drafts, int most) const {
  if (drafts.size() > static_cast<size_t>(most)) drafts.resize(static_cast<size_t>(most));
  drafts.erase(std::find_if(drafts.begin(), drafts.end(), [&](int32_t id) { return id < 0 || id >= model_.vocab; }),
               drafts.end());
}

void Worker::run(const StepBatch& batch, const StepMasks& masks, StepResult& result) {
  open_slots(batch);
  copy_blocks(batch);
  update_tables(batch);
  fill_inputs(batch);
  plan_sampling(batch, masks, result);
  masks_ = &masks, batch_ = &batch, result_ = &result;
  if (executor_->inputs().tokens == 0) return;  // only rows of sequences that have ended
  executor_->run(tail_, options_.replay);
  if (!model_drafter_ || !options_.draft_in_walk) collect(batch, result);
  if (options_.drafter) propose(batch, result);
  if (!model_drafter_) return;
  if (!options_.draft_in_walk) {
    begin_drafts(batch, result);
    if (!draft_rows_.empty())
      draft_ranks_.threads().run(
          [this](int thread) { model_drafter_->walk({thread, draft_ranks_.threads().size()}); });
  }
  end_drafts(result);
}

}  // namespace weft
