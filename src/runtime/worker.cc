#include "runtime/worker.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "base/check.h"
#include "sampling/candidates.h"

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

Worker::Worker(std::unique_ptr<ModelRunner> runner, const RankTeam& draft_ranks, WorkerOptions options)
    : runner_(std::move(runner)), model_(runner_->model()), inputs_(runner_->first().executor()),
      results_(runner_->results()), model_drafter_(runner_->drafter()), team_(runner_->threads()),
      draft_team_(draft_ranks.threads()), options_(std::move(options)) {
  tail_ = [this](kernels::Part part) { finish_walk(part); };
  const RunnerOptions& limits = options_.runner;
  processors_ = std::make_unique<ProcessorStage>(options_.processors, limits.max_batch_size, model_.vocab);
  for (int i = 0; i < limits.max_batch_size; ++i)
    slots_.push_back({.sampler = SlotState(model_.vocab, limits.max_seq_len)});
  for (int i = 0; i < limits.steps_in_flight; ++i) lanes_.push_back(std::make_unique<Lane>(Lane{.number = i}));
}

Result<std::unique_ptr<Worker>> Worker::create(Model model, std::optional<DraftModel> draft, const RankTeam& ranks,
                                               const RankTeam& draft_ranks, WorkerOptions options) {
  WEFT_TRY(std::unique_ptr<ModelRunner> runner,
           ModelRunner::create(std::move(model), std::move(draft), ranks, draft_ranks, options.runner));
  return std::unique_ptr<Worker>(new Worker(std::move(runner), draft_ranks, std::move(options)));
}

void Worker::open_slots(const StepBatch& batch) {
  for (Slot slot : batch.closes) {
    SlotState& sampler = slots_[slot].sampler;
    if (options_.drafter && sampler.is_open()) close_drafter(slot);
    sampler.close();
    processors_->close(slot);
    slots_[slot].media.reset(), slots_[slot].prompt = {};
  }
  for (const SlotOpen& open : batch.opens) {
    SlotData& slot = slots_[open.slot];
    slot.failed = false;
    slot.prompt = open.prompt;
    slot.token_types = open.token_types;
    slot.media = open.media;
    slot.adapter = open.adapter;
    slot.last_token = 0;
    slot.max_outputs = open.max_outputs;
    slot.drafts.clear();
    slot.first_key = 0, slot.drafted_to = -1;
    if (options_.drafter && open.sampling) options_.drafter->open(open.slot, open.salt);
    slot.error.clear();
    if (!open.sampling) continue;
    auto processors = processors_->open(open.slot, *open.sampling);
    if (processors.ok()) {
      slot.sampler.open(open.sampling, open.seed, open.prompt, open.output, std::move(processors).value());
    } else {
      slot.error = processors.error().message();
      slot.sampler.open(open.sampling, open.seed, open.prompt, open.output);
    }
  }
}

// What it may learn from the answer is not worth an error.
void Worker::close_drafter(Slot slot) noexcept {
  const SlotState& sampler = slots_[slot].sampler;
  try {
    options_.drafter->close(slot, sampler.tokens(), sampler.prompt_tokens());
  } catch (const std::bad_alloc&) {
  }
}

void Worker::plan_sampling(Lane& lane) {
  const StepBatch& batch = *lane.step.batch;
  StepResult& result = *lane.step.result;
  std::vector<StepRow>& rows = lane.rows;
  sample_rows_.clear(), prompt_rows_.clear();
  result.step = batch.step;
  result.rows.resize(batch.rows.size());
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    RowResult& out = result.rows[r];
    out.slot = batch.rows[r].slot;
    out.tokens.clear(), out.logprobs.clear(), out.prompt_logprobs.clear(), out.outputs.clear(), out.error.clear();
    out.error_code = Code::internal;
    out.drafted = 0, out.drafts.clear(), out.draft_scores.clear();
    if (batch.rows[r].prompt_logprobs) plan_prompt_rows(r, out);
    rows[r].first_sample = static_cast<int>(sample_rows_.size());
    if (rows[r].samples > 0) plan_samples(batch.rows[r], rows[r], *lane.step.masks, out);
  }
  processors_->begin();
  processed_.store(false, std::memory_order_relaxed);
  for (size_t r = 0; r < rows.size(); ++r)
    for (int i = 0; i < rows[r].samples; ++i)
      processors_->add(batch.rows[r].slot, sample_rows_[static_cast<size_t>(rows[r].first_sample + i)]);
  size_t next = 0;
  for (RowResult& row : result.rows)
    for (std::vector<TokenLogprob>& entry : row.prompt_logprobs) prompt_rows_[next++].out = &entry;
  prompt_errors_.assign(prompt_rows_.size(), {});
}

void Worker::plan_prompt_rows(size_t r, RowResult& out) {
  const StepRow& row = finishing_->rows[r];
  const SlotData& slot = slots_[row.slot];
  const int prompt = static_cast<int>(slot.prompt.size());
  for (int i = 0; i < row.tokens && row.first + i + 1 < prompt; ++i)
    prompt_rows_.push_back({static_cast<int>(r), output_of(row, i), slot.prompt[row.first + i + 1],
                            slot.sampler.params().prompt_logprobs, nullptr});
  out.prompt_logprobs.resize(std::max(0, std::min(row.tokens, prompt - row.first - 1)));
}

// A sample behind the row's last token, and one behind each draft as if those before it were accepted.
SampleRow Worker::sample_of(const StepBatch::Row& row, const StepMasks& masks, int index) const {
  const SlotData& slot = slots_[row.slot];
  SampleRow sample;
  sample.state = &slot.sampler;
  sample.pending = std::span(slot.drafts).first(static_cast<size_t>(index));
  sample.error = slot.error;
  if (row.guide >= 0) sample.mask = masks.data(row.guide + index);
  return sample;
}

// Rows that the best candidates of each part decide (sampling/candidates.h), where outputs are in parts.
void Worker::plan_summaries(const Step& step, const std::vector<StepRow>& rows) {
  for (size_t r = 0; r < rows.size(); ++r) {
    const StepBatch::Row& row = step.batch->rows[r];
    const StepRow& at = rows[r];
    const bool whole = row.context_logits || row.generation_logits || row.prompt_logprobs || row.guide >= 0;
    if (whole || options_.sampler != SamplerKind::fused || !inputs_.in_parts(at.home)) continue;
    for (int i = 0; i < at.samples; ++i) {
      const int needed = candidates_needed(sample_of(row, *step.masks, i));
      const int bytes = needed * static_cast<int>(sizeof(Candidate));
      if (bytes > inputs_.most_summary_bytes()) continue;
      inputs_.inputs(at.home).summary_bytes[at.first_output + at.outputs - at.samples + i] = bytes;
    }
  }
}

void Worker::plan_samples(const StepBatch::Row& row, StepRow& at, const StepMasks& masks, RowResult& out) {
  const SamplingParams& params = slots_[row.slot].sampler.params();
  const bool listed = params.logprobs >= 0 || params.beam_candidates > 0;
  if (listed) out.logprobs.resize(static_cast<size_t>(at.samples));
  for (int i = 0; i < at.samples; ++i) {
    SampleRow sample = sample_of(row, masks, i);
    const int output = at.outputs - at.samples + i;
    sample.candidates = as_candidates(results_.summaries(at.home, at.first_output + output, finishing_->number));
    if (sample.candidates.empty()) sample.logits = {output_of(at, output), static_cast<size_t>(model_.vocab)};
    if (listed) sample.logprobs = &out.logprobs[static_cast<size_t>(i)];
    sample_rows_.push_back(std::move(sample));
  }
}

// Batched processors: one thread, while the others wait.
void Worker::run_processors(kernels::Part part) {
  if (processors_->empty()) return;
  if (part.index == 0) {
    guard([&] { processors_->run(); });
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
    draft_rows_.clear();
    if (!out_of_memory_) guard([&] { collect(*finishing_), begin_drafts(*finishing_); });
    if (out_of_memory_) draft_rows_.clear();
  }
  team_.barrier();
  if (!draft_rows_.empty()) model_drafter_->walk(part);
}

void Worker::sample(kernels::Part part) {
  const auto waits = std::chrono::steady_clock::now();
  finishing_->step.masks->wait();
  if (part.index == 0) {
    sampling_began_ = std::chrono::steady_clock::now();
    mask_wait_seconds_ += std::chrono::duration<double>(sampling_began_ - waits).count();
  }
  run_processors(part);
  if (out_of_memory_) return;
  guard([&] {
    sample_rows(options_.sampler, sample_rows_, part.index, part.count, runner_->scratch(part.index));
    for (size_t i = part.index; i < prompt_rows_.size(); i += part.count) {
      const PromptRow& row = prompt_rows_[i];
      const std::span<const float> logits{row.logits, static_cast<size_t>(model_.vocab)};
      prompt_errors_[i] = raw_logprobs(logits, row.next, row.k, runner_->scratch(part.index), *row.out);
    }
  });
}

// What a thread of the team does in the tail: no exception may leave it, the others wait for it.
template <class Work>
void Worker::guard(Work work) noexcept {
  try {
    work();
  } catch (...) {  // there is no other that could be
    out_of_memory_ = true;
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

void Worker::collect(Lane& lane) {
  StepResult& result = *lane.step.result;
  sample_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - sampling_began_).count();
  for (size_t r = 0; r < lane.rows.size(); ++r) accept(lane.rows[r], result.rows[r]);
  for (size_t i = 0; i < prompt_rows_.size(); ++i)
    if (!prompt_errors_[i].empty()) result.rows[prompt_rows_[i].row].error = prompt_errors_[i];
  collect_outputs(lane);
}

void Worker::collect_outputs(const Lane& lane) {
  const StepBatch& batch = *lane.step.batch;
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    const StepRow& at = lane.rows[r];
    RowResult& result = lane.step.result->rows[r];
    const auto add = [&](int index) {
      const float* from = output_of(at, index);
      result.outputs.insert(result.outputs.end(), from, from + results_.output_cols());
    };
    if (row.context_logits)
      for (int i = 0; i < at.outputs; ++i) add(i);
    if (row.generation_logits)
      for (int i = 0; i < static_cast<int>(result.tokens.size()); ++i) add(at.outputs - at.samples + i);
  }
}

// Drafts from the text, for the sequences' next rows.
void Worker::propose(const Lane& lane) {
  const StepBatch& batch = *lane.step.batch;
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const StepBatch::Row& row = batch.rows[r];
    SlotData& slot = slots_[row.slot];
    RowResult& out = lane.step.result->rows[r];
    if (row.propose <= 0 || out.tokens.empty() || !out.error.empty()) continue;
    const std::span<const int32_t> tokens = slot.sampler.tokens();
    const int left = slot.sampler.prompt_tokens() + slot.max_outputs - static_cast<int>(tokens.size());
    const int most = std::min(row.propose, left);
    if (most <= 0) continue;
    options_.drafter->propose(
        {row.slot, tokens, slot.sampler.prompt_tokens(), &slot.sampler.params(), slot.sampler.seed(), slot.media.get()},
        most, slot.drafts);
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

// What a step counts on: see StepBatch::after.
void Worker::check_order(const StepBatch& batch) const {
  WEFT_CHECK(batch.after <= finished_) << "step " << batch.step << " begins before step " << batch.after
                                       << " is finished";
  for (const auto& lane : lanes_)
    for (const StepRow& row : lane->step.batch ? std::span<const StepRow>(lane->rows) : std::span<const StepRow>())
      WEFT_CHECK(std::find(batch.closes.begin(), batch.closes.end(), row.slot) == batch.closes.end())
          << "slot " << row.slot << " is closed while a step with a row of it is in flight";
}

void Worker::enter(const Step& step, Lane& lane) {
  check_order(*step.batch);
  lane.step = step;
  open_slots(*step.batch);
  runner_->enter(*step.batch);
  fill_inputs(*step.batch, lane.rows);
  plan_summaries(step, lane.rows);
  runner_->place_outputs(lane.number);
  lane.has_rows = inputs_.has_rows();
  runner_->announce(*step.batch, options_.replay);
}

bool Worker::run(const Step* next) {
  out_of_memory_ = false;
  if (options_.runner.steps_in_flight > 1 || runner_->in_processes()) {
    const bool finished = run_turn(next);
    if (out_of_memory_) throw std::bad_alloc();
    check_weights();
    return finished;
  }
  guard([&] { run_turn(next); });
  if (out_of_memory_ && next) fail_step(*next);
  check_weights();
  return next != nullptr;
}

// Nothing can be computed any more, and what this turn has computed must not be seen.
void Worker::check_weights() const {
  if (const Status whole = model_.check_weights(); !whole.ok()) throw std::runtime_error(whole.error().message());
}

// A step of the only stage. Its slots may not even be open.
void Worker::fail_step(const Step& step) noexcept {
  const StepBatch& batch = *step.batch;
  StepResult& result = *step.result;
  result.step = batch.step;
  result.rows.resize(batch.rows.size());  // there is room
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    result.rows[r] = {};
    result.rows[r].slot = batch.rows[r].slot;
    result.rows[r].error = "out of memory";  // short enough to need none
    result.rows[r].error_code = Code::resource_exhausted;
    slots_[batch.rows[r].slot].failed = true;
  }
  lanes_.front()->step = {};
  finished_ = batch.step;
}

bool Worker::run_turn(const Step* next) {
  std::rotate(lanes_.begin(), lanes_.end() - 1, lanes_.end());
  if (next) enter(*next, *lanes_.front());
  Lane& last = *lanes_.back();
  finishing_ = &last;
  if (last.step.batch) plan_sampling(last);
  const bool samples = last.step.batch && last.has_rows;
  runner_->run({.entered = next ? next->batch : nullptr,
                .lane = lanes_.front()->number,
                .replay = options_.replay,
                .tail = samples ? &tail_ : nullptr,
                .finishes = last.number});
  if (!last.step.batch) return false;
  if (samples) finish(last);  // else only rows of sequences that have ended
  finished_ = last.step.batch->step;
  last.step = {};
  return true;
}

// Behind the walk.
void Worker::finish(Lane& lane) {
  if (out_of_memory_) return;
  if (!model_drafter_ || !options_.draft_in_walk) collect(lane);
  if (options_.drafter) propose(lane);
  if (!model_drafter_) return;
  if (!options_.draft_in_walk) {
    begin_drafts(lane);
    if (!draft_rows_.empty())
      draft_team_.run([this](int thread) { model_drafter_->walk({thread, draft_team_.size()}); });
  }
  end_drafts(*lane.step.result);
}

}  // namespace weft
