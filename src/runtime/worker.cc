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

Worker::Worker(Model model, ThreadTeam& team, WorkerOptions options)
    : model_(std::move(model)), team_(team), options_(std::move(options)) {
  tail_ = [this](kernels::Part part) { sample(part); };
}

Result<std::unique_ptr<Worker>> Worker::create(Model model, ThreadTeam& team, WorkerOptions options) {
  std::unique_ptr<Worker> worker(new Worker(std::move(model), team, std::move(options)));
  WEFT_RETURN_IF_ERROR(worker->allocate());
  return worker;
}

Status Worker::allocate() {
  CacheMemory cache;
  cache.tokens_per_block = options_.tokens_per_block;
  cache.dtype = model_.kv_dtype, cache.local_dtype = model_.local_kv_dtype();
  for (size_t g = 0; g < model_.plan.groups.size(); ++g) {
    const auto bytes =
        static_cast<size_t>(cache_block_bytes(model_.plan.groups[g], model_.kv_dtype, options_.tokens_per_block));
    WEFT_TRY(Memory memory, Memory::reserve(bytes * options_.max_blocks[g], true));
    cache.base.push_back(memory.data());
    cache.block_stride_bytes.push_back(bytes);
    block_bytes_.push_back(bytes);
    cache_memory_.push_back(std::move(memory));
  }
  if (model_.plan.cross_group && model_.vision) {
    cross_blocks_ = (kMaxCrossImages * model_.vision->most_keys + kCrossBlock - 1) / kCrossBlock;
    cache.cross_stride_bytes =
        static_cast<size_t>(cache_block_bytes(*model_.plan.cross_group, model_.kv_dtype, kCrossBlock));
    WEFT_TRY(cross_memory_, Memory::reserve(cache.cross_stride_bytes * cross_blocks_ * options_.max_batch_size, true));
    cache.cross_base = cross_memory_.data();
  }
  executor_ = std::make_unique<CpuExecutor>(
      model_.plan, model_.weights, *model_.table, team_, std::move(cache),
      ExecutorLimits{options_.max_num_tokens, options_.max_outputs, options_.max_batch_size, options_.max_seq_len});
  table_blocks_ = (options_.max_seq_len + options_.tokens_per_block - 1) / options_.tokens_per_block;
  for (GroupInputs& group : executor_->inputs().groups)
    group.block_table.resize(static_cast<size_t>(options_.max_batch_size) * static_cast<size_t>(table_blocks_));
  if (options_.measure_ops) executor_->measure_ops();
  if (options_.trace) executor_->trace(*options_.trace);
  processors_ = std::make_unique<ProcessorStage>(options_.processors, options_.max_batch_size, model_.vocab);
  for (int i = 0; i < options_.max_batch_size; ++i)
    slots_.push_back({SlotState(model_.vocab, options_.max_seq_len), 0, {}, {}, {}});
  for (int i = 0; i < team_.size(); ++i)
    scratch_.push_back(std::make_unique<Scratch>(model_.vocab, options_.max_seq_len));
  return {};
}

void Worker::open_slots(const StepBatch& batch) {
  for (Slot slot : batch.closes) {
    slots_[slot].sampler.close();
    processors_->close(slot);
    slots_[slot].media.reset();
    if (cross_blocks_ > 0) cross_memory_.release(cross_offset(slot), cross_offset(1));
  }
  for (const SlotOpen& open : batch.opens) {
    SlotData& slot = slots_[open.slot];
    slot.prompt = open.prompt;
    slot.token_types = open.token_types;
    slot.media = open.media;
    if (cross_blocks_ > 0 && slot.media) open_images(open.slot);
    slot.last_token = 0;
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
  for (const BlockCopy& copy : batch.copies) {
    std::byte* base = cache_memory_[copy.group].data();
    const size_t bytes = block_bytes_[copy.group];
    std::memcpy(base + copy.to * bytes, base + copy.from * bytes, bytes);
  }
  for (const BlockRelease& release : batch.releases)
    cache_memory_[release.group].release(release.block * block_bytes_[release.group], block_bytes_[release.group]);
}

void Worker::update_tables(const StepBatch& batch) {
  for (const TableEntry& entry : batch.entries) {
    WEFT_CHECK(entry.number < table_blocks_) << "slot " << entry.slot << " has a block number " << entry.number;
    executor_->inputs()
        .groups[entry.group]
        .block_table[static_cast<size_t>(entry.slot) * table_blocks_ + entry.number] = entry.block;
  }
}

void Worker::fill_inputs(const StepBatch& batch) {
  StepInputs& in = executor_->inputs();
  in.tokens = in.outputs = 0;
  size_t next_token = 0;
  first_output_.clear();
  for (const StepBatch::Row& row : batch.rows) {
    const int first = in.tokens;
    for (int i = 0; i < row.tokens; ++i) {
      in.ids[in.tokens] = row.source == TokenSource::host ? batch.tokens[next_token++] : slots_[row.slot].last_token;
      fill_token(slots_[row.slot], row.first + i);
    }
    if (model_.plan.takes_features) fill_features(slots_[row.slot], row, first);
    if (model_.plan.joined_images) fill_ends(slots_[row.slot], row, first);
    first_output_.push_back(in.outputs);
    if (row.logits == LogitRows::all)
      for (int i = 0; i < row.tokens; ++i) in.output_rows[in.outputs++] = first + i;
    else if (row.logits == LogitRows::first) in.output_rows[in.outputs++] = first;
    else if (row.logits == LogitRows::last) in.output_rows[in.outputs++] = first + row.tokens - 1;
  }
  fill_groups(batch);
  if (model_.plan.cross_group) fill_cross(batch);
}

// The inputs of the step's next row besides its id: token `position` of a sequence.
void Worker::fill_token(const SlotData& slot, int position) {
  StepInputs& in = executor_->inputs();
  const int row = in.tokens++;
  in.token_types[row] = slot.token_types.empty() ? 0 : slot.token_types[position];
  in.positions[row] = position;
  if (!slot.media || slot.media->positions[0].empty()) {
    for (int axis = 1; axis < model_.plan.position_axes; ++axis)
      in.positions[axis * options_.max_num_tokens + row] = position;
    return;
  }
  const bool prompt = position < static_cast<int>(slot.media->positions[0].size());
  for (int axis = 0; axis < model_.plan.position_axes; ++axis)
    in.positions[axis * options_.max_num_tokens + row] =
        prompt ? slot.media->positions[axis][position] : position + slot.media->delta;
}

// Where the rows of a sequence find features of images; `first`: its first row in the step.
void Worker::fill_features(const SlotData& slot, const StepBatch::Row& row, int first) {
  const float** features = executor_->inputs().features.data() + first;
  std::fill_n(features, row.tokens, nullptr);
  if (!slot.media) return;
  for (const MediaPrompt::Span& span : slot.media->spans) {
    const int begin = std::max(span.position, row.first),
              end = std::min(span.position + span.count, row.first + row.tokens);
    for (int i = begin; i < end; ++i) executor_->inputs().ids[first + i - row.first] = -1;  // may lie behind the table
    for (int i = begin; i < end; ++i)
      features[i - row.first] = slot.media->features[span.media]->row(span.first + i - span.position);
  }
}

size_t Worker::cross_offset(Slot slot) const {
  return static_cast<size_t>(slot) * cross_blocks_ *
         static_cast<size_t>(cache_block_bytes(*model_.plan.cross_group, model_.kv_dtype, kCrossBlock));
}

// Writes the images' keys and values into the slot's own cross blocks, in the order that MediaPrompt::cross tells.
void Worker::open_images(Slot slot) {
  const LayerGroup& group = *model_.plan.cross_group;
  const int kv = group.spec.kv_heads * group.spec.k_dim;
  std::vector<int32_t> blocks(cross_blocks_);
  for (int i = 0; i < cross_blocks_; ++i) blocks[i] = slot * cross_blocks_ + i;
  const MediaPrompt& media = *slots_[slot].media;
  int position = 0;
  const auto append = [&](const MediaFeatures& features, int first, int rows) {
    const kernels::SequenceView view{.rows = rows, .first_position = position};
    for (int layer = 0; layer < group.layers && rows > 0; ++layer) {
      const float* k = features.row(first) + static_cast<size_t>(layer) * 2 * kv;
      const kernels::AppendArgs args{k,
                                     k + kv,
                                     features.cols,
                                     features.cols,
                                     executor_->cache_view({CacheRef::Kind::cross, 0, layer}),
                                     blocks.data(),
                                     &view,
                                     1};
      team_.run([&](int thread) { model_.table->run(args, rows, {thread, team_.size()}); });
    }
    position += rows;
  };
  for (size_t i = 0; i < media.features.size(); ++i) append(*media.features[i], 0, media.real_rows[i]);
  for (size_t i = 0; i < media.features.size(); ++i)
    append(*media.features[i], media.real_rows[i], media.features[i]->rows - media.real_rows[i]);
}

// Which keys of their images the step's rows see.
void Worker::fill_cross(const StepBatch& batch) {
  StepInputs& in = executor_->inputs();
  in.cross.block_table.clear(), in.cross.sequences.clear();
  in.has_images = false;
  int first = 0;
  for (const StepBatch::Row& row : batch.rows) {
    const MediaPrompt* media = slots_[row.slot].media.get();
    int keys = 0;
    if (media)
      for (const auto& features : media->features) keys += features->rows;
    in.has_images |= media != nullptr;
    for (int i = 0; i < row.tokens; ++i) {
      MediaPrompt::Keys seen;
      if (media) seen = media->cross[std::min<size_t>(row.first + i, media->cross.size() - 1)];
      const bool sees = seen.first < seen.end;
      in.row_flags[first + i] = static_cast<uint8_t>((media ? kHasImages : 0) | (sees ? kSeesImage : 0));
      in.cross_starts[first + i] = sees ? seen.first : 0, in.cross_ends[first + i] = sees ? seen.end : keys;
    }
    const auto offset = static_cast<int64_t>(in.cross.block_table.size());
    for (int i = 0; i < (keys + kCrossBlock - 1) / kCrossBlock; ++i)
      in.cross.block_table.push_back(row.slot * cross_blocks_ + i);
    in.cross.sequences.push_back(
        {first, row.tokens, 0, offset, in.cross_ends.data() + first, in.cross_starts.data() + first});
    first += row.tokens;
  }
}

// What an image's tokens see: all of the image, which lies in one step (the scheduler does not cut it).
void Worker::fill_ends(const SlotData& slot, const StepBatch::Row& row, int first) {
  int32_t* ends = executor_->inputs().ends.data() + first;
  for (int i = 0; i < row.tokens; ++i) ends[i] = row.first + i + 1;
  if (!slot.media) return;
  for (const MediaPrompt::Span& span : slot.media->spans)
    for (int i = std::max(span.position, row.first); i < std::min(span.position + span.count, row.first + row.tokens);
         ++i)
      ends[i - row.first] = span.position + span.count;
}

void Worker::fill_groups(const StepBatch& batch) {
  StepInputs& in = executor_->inputs();
  for (GroupInputs& group : in.groups) {
    group.sequences.clear();
    int first_row = 0;
    for (const StepBatch::Row& row : batch.rows) {
      const int32_t* ends = model_.plan.joined_images ? in.ends.data() + first_row : nullptr;
      group.sequences.push_back(
          {first_row, row.tokens, row.first, static_cast<int64_t>(row.slot) * table_blocks_, ends});
      first_row += row.tokens;
    }
  }
  for (GroupInputs& group : in.local_groups) {
    group.sequences.clear();
    int first_row = 0;
    for (const StepBatch::Row& row : batch.rows) {
      group.sequences.push_back({.first_row = first_row, .rows = row.tokens});
      first_row += row.tokens;
    }
  }
}

void Worker::plan_sampling(const StepBatch& batch, const StepMasks& masks, StepResult& result) {
  sample_rows_.clear(), sample_of_.clear(), prompt_rows_.clear();
  result.step = batch.step;
  result.rows.resize(batch.rows.size());
  const float* output = executor_->output();
  const int64_t ld = executor_->output_ld();
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    RowResult& out = result.rows[r];
    out.slot = row.slot;
    out.tokens.clear(), out.logprobs.clear(), out.prompt_logprobs.clear(), out.outputs.clear(), out.error.clear();
    const SlotData& slot = slots_[row.slot];
    if (row.prompt_logprobs) {
      for (int i = 0; i < row.tokens; ++i)
        if (const int next = row.first + i + 1; next < static_cast<int>(slot.prompt.size()))
          prompt_rows_.push_back({static_cast<int>(r), first_output_[r] + i, slot.prompt[next],
                                  slot.sampler.params().prompt_logprobs, nullptr});
      out.prompt_logprobs.resize(
          std::max(0, std::min(row.tokens, static_cast<int>(slot.prompt.size()) - row.first - 1)));
    }
    if (!row.sample) continue;
    SampleRow sample;
    const int last = first_output_[r] + (row.logits == LogitRows::all ? row.tokens - 1 : 0);
    sample.logits = {output + last * ld, static_cast<size_t>(model_.vocab)};
    sample.state = &slot.sampler;
    sample.error = slot.error;
    if (row.guide >= 0) sample.mask = masks.data(row.guide);
    if (slot.sampler.params().logprobs >= 0 || slot.sampler.params().beam_candidates > 0) {
      out.logprobs.resize(1);
      sample.logprobs = &out.logprobs[0];
    }
    sample_rows_.push_back(std::move(sample));
    sample_of_.push_back(static_cast<int>(r));
  }
  processors_->begin();
  processed_.store(false, std::memory_order_relaxed);
  for (size_t i = 0; i < sample_rows_.size(); ++i) processors_->add(batch.rows[sample_of_[i]].slot, sample_rows_[i]);
  size_t next = 0;
  for (size_t r = 0; r < batch.rows.size(); ++r)
    for (std::vector<TokenLogprob>& entry : result.rows[r].prompt_logprobs) prompt_rows_[next++].out = &entry;
  prompt_errors_.assign(prompt_rows_.size(), {});
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

void Worker::collect(const StepBatch& batch, StepResult& result) {
  for (size_t i = 0; i < sample_rows_.size(); ++i) {
    SampleRow& sample = sample_rows_[i];
    RowResult& out = result.rows[sample_of_[i]];
    if (!sample.error.empty()) {
      out.error = std::move(sample.error);
      continue;
    }
    out.tokens.push_back(sample.token);
    SlotData& slot = slots_[out.slot];
    slot.sampler.append(sample.token);
    slot.last_token = sample.token;
  }
  for (size_t i = 0; i < prompt_rows_.size(); ++i)
    if (!prompt_errors_[i].empty()) result.rows[prompt_rows_[i].row].error = prompt_errors_[i];
  collect_outputs(batch, result);
}

void Worker::collect_outputs(const StepBatch& batch, StepResult& result) {
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    std::vector<float>& outputs = result.rows[r].outputs;
    const auto add = [&](int output_row) {
      const float* from = executor_->output() + output_row * executor_->output_ld();
      outputs.insert(outputs.end(), from, from + executor_->output_cols());
    };
    const int rows = row.logits == LogitRows::all ? row.tokens : row.logits != LogitRows::none;
    if (row.context_logits)
      for (int i = 0; i < rows; ++i) add(first_output_[r] + i);
    if (row.generation_logits) add(first_output_[r] + rows - 1);
  }
}

void Worker::run(const StepBatch& batch, const StepMasks& masks, StepResult& result) {
  open_slots(batch);
  copy_blocks(batch);
  update_tables(batch);
  fill_inputs(batch);
  plan_sampling(batch, masks, result);
  masks_ = &masks;
  executor_->run(tail_, options_.replay);
  sample_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - sampling_began_).count();
  collect(batch, result);
}

}  // namespace weft
