#include "runtime/engine_core.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/clock.h"
#include "comm/process_ranks.h"
#include "runtime/media_message.h"
#include "spec/ngram_drafter.h"

namespace weft {
namespace {

// See SchedulerOptions.
int draft_ahead(const std::optional<DraftModel>& draft) { return draft ? static_cast<int>(draft->stages.size()) : 0; }

// A cache for each home. Its groups are the model's, then those of its draft: a block table serves both, so that a
// prefix is found for both or for neither. Ranks of one process share the budget; every process has one, and as many
// blocks as the fullest of them has room for.
Result<std::vector<CacheManager>> make_caches(const Model& model, const std::optional<DraftModel>& draft,
                                              const CoreOptions& options, const RankTeam& ranks) {
  const RankLayout& layout = ranks.layout();
  const int here = ranks.ranks(), homes_here = std::min(layout.homes(), here);
  CacheOptions cache;
  const auto add = [&](const Plan& whole, DType dtype, PlanPart part) -> Status {
    std::vector<Plan> shares;
    for (int rank = 0; rank < layout.size(); ++rank) {
      WEFT_TRY(Plan share, share_of(whole, layout, rank, part));
      shares.push_back(std::move(share));
    }
    for (size_t g = 0; g < whole.groups.size(); ++g) {
      int64_t most = 0;
      for (int first = 0; first < layout.size(); first += here) {
        int64_t bytes = 0;  // of a block of one of the process's homes
        for (int rank = first; rank < first + here; rank += homes_here)
          bytes += cache_block_bytes(shares[rank].groups[g], dtype, options.tokens_per_block);
        most = std::max(most, bytes);
      }
      cache.groups.push_back({whole.groups[g].spec.kind, whole.groups[g].spec.span, most});
    }
    return {};
  };
  WEFT_RETURN_IF_ERROR(add(model.whole, model.kv_dtype, PlanPart::target));
  if (draft) {
    for (const DraftStage& stage : draft->stages)
      WEFT_RETURN_IF_ERROR(add(stage.whole, draft->kv_dtype, PlanPart::draft));
    cache.lookahead = draft_ahead(draft), cache.recomputed = draft->reads_states();
  }
  cache.tokens_per_block = options.tokens_per_block;
  cache.budget_bytes = options.cache_bytes / homes_here;
  cache.block_reuse = options.block_reuse;
  cache.event_capacity = options.cache_events;
  std::vector<CacheManager> caches;
  for (int home = 0; home < layout.homes(); ++home) {
    WEFT_TRY(CacheManager own, CacheManager::create(cache));
    caches.push_back(std::move(own));
  }
  return caches;
}

// Every pipeline stage has a step of its own. A draft in other processes follows its step before the next one begins.
int steps_in_flight(const RankTeam& ranks, bool drafts) {
  return drafts && ranks.processes() ? 1 : ranks.layout().pipeline;
}

}  // namespace

EngineCore::EngineCore(std::unique_ptr<RankTeam> ranks, std::unique_ptr<RankTeam> draft_ranks, CoreOptions options,
                       Scheduler scheduler, int steps)
    : options_(options), ranks_(std::move(ranks)), draft_ranks_(std::move(draft_ranks)),
      scheduler_(std::move(scheduler)), steps_(static_cast<size_t>(steps)), free_(steps_.size()),
      submitted_(steps_.size()), running_(steps_.size()), done_(steps_.size()),
      budget_(options.max_step_ms / 1000, std::min(options.prefill_tokens, options.max_num_tokens)),
      mask_seconds_(kMasks), features_(options.feature_cache_bytes),
      outputs_(static_cast<size_t>(options.max_batch_size)) {
  for (int i = 0; i < steps; ++i) free_.push_back(i);
  scheduler_.set_prefill_budget(options_.max_step_ms > 0 ? budget_.tokens() : options_.prefill_tokens);
}

Result<std::unique_ptr<EngineCore>> EngineCore::create(Model model, std::unique_ptr<RankTeam> ranks,
                                                       const CoreOptions& wanted, std::optional<DraftModel> draft,
                                                       std::unique_ptr<RankTeam> draft_ranks) {
  CoreOptions options = wanted;
  WEFT_TRY(std::vector<CacheManager> caches, make_caches(model, draft, options, *ranks));
  // a longer sequence could never finish
  options.max_seq_len = std::min(options.max_seq_len, caches.front().max_sequence_tokens());
  const int in_flight = steps_in_flight(*ranks, draft.has_value()), steps = options.overlap ? in_flight + 1 : 1;
  RunnerOptions runner{.max_batch_size = options.max_batch_size,
                       .max_num_tokens = options.max_num_tokens,
                       .max_outputs = options.max_outputs,
                       .max_seq_len = options.max_seq_len,
                       .tokens_per_block = options.tokens_per_block,
                       .measure_ops = options.measure_ops,
                       .most_drafts = options.speculation.most(),
                       .draft_scores = options.draft_scores,
                       .steps_in_flight = in_flight};
  // In the order in which they run.
  TracedPlan* const vision =
      options.trace && model.vision ? &options.trace->add_plan(model.vision->plan, "vision") : nullptr;
  if (options.trace) runner.trace = &options.trace->add_plan(model.plan(), "");
  for (int g = 0; g < caches.front().groups(); ++g) runner.max_blocks.push_back(caches.front().max_blocks(g));
  const SchedulerOptions limits{.homes = ranks->layout().homes(),
                                .max_batch_size = options.max_batch_size,
                                .max_num_tokens = options.max_num_tokens,
                                .max_logit_rows = options.max_outputs,
                                .max_seq_len = options.max_seq_len,
                                .chunked_prefill = options.chunked_prefill,
                                .stages = options.overlap ? in_flight : 1,
                                .overlap = steps,
                                .speculation = options.speculation,
                                .draft_ahead = draft_ahead(draft),
                                .store = options.store != nullptr,
                                .balance_wait_us = options.balance_wait_us};
  WEFT_TRY(Scheduler scheduler, Scheduler::create(limits, std::move(caches)));
  WorkerOptions worker{.runner = std::move(runner),
                       .replay = options.replay,
                       .sampler = options.sampler,
                       .processors = options.processors,
                       .drafter = options.drafter,
                       .draft_in_walk = draft_ranks == nullptr && options.speculation.one_model,
                       .draft_scores = options.draft_scores};
  if (!worker.drafter && !draft && options.speculation.method != DraftMethod::none)
    worker.drafter = std::make_shared<NgramDrafter>(options.speculation);
  std::unique_ptr<EngineCore> core(
      new EngineCore(std::move(ranks), std::move(draft_ranks), options, std::move(scheduler), steps));
  WEFT_TRY(core->worker_, Worker::create(std::move(model), std::move(draft), *core->ranks_,
                                         core->draft_ranks_ ? *core->draft_ranks_ : *core->ranks_, std::move(worker)));
  if (core->model().adapters) core->adapters_ = std::make_unique<AdapterStore>(core->model(), options.adapter_bytes);
  if (options.store)
    core->tier_ = std::make_unique<CacheTier>(
        options.store, CacheTier::Options{options.tier_always}, core->worker_->runner(), core->mutex_, core->scheduler_,
        [raw = core.get()](SequenceId id) { raw->ask_other_servers(id); },
        [raw = core.get()] { raw->engine_wake_.notify_one(); });
  if (core->model().vision) {
    core->encoders_ = std::make_unique<ImageEncoders>(core->model(), *core->ranks_, vision);
    core->images_encoded_.resize(static_cast<size_t>(core->encoders_->processes()));
  }
  core->reserve_steps();
  core->step_thread_ = std::thread([raw = core.get()] { raw->step_loop(); });
  core->engine_thread_ = std::thread([raw = core.get()] { raw->engine_loop(); });
  WEFT_RETURN_IF_ERROR(core->open_exchange());
  if (ProcessRanks* processes = core->ranks_->processes())
    processes->on_failure([raw = core.get()](const std::string& why) { raw->fail(why); });
  return core;
}

EngineCore::~EngineCore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  engine_wake_.notify_all();
  if (engine_thread_.joinable()) engine_thread_.join();
  step_wake_.notify_all();
  if (step_thread_.joinable()) step_thread_.join();
  // Each calls for the other until its threads have ended, so neither goes before.
  if (exchange_) exchange_->end();
  if (tier_) tier_->end();
  exchange_.reset(), tier_.reset();
  encoders_.reset();                                             // while the other processes listen
  if (ranks_->processes()) ranks_->processes()->on_failure({});  // they close after this, and that may fail
}

void EngineCore::hold() {
  const std::lock_guard lock(mutex_);
  ++holds_;
}

void EngineCore::release() {
  const std::lock_guard lock(mutex_);
  --holds_;
  engine_wake_.notify_one();
}

// So that a step that has been scheduled needs no memory but for what is in it.
void EngineCore::reserve_steps() {
  const auto rows = static_cast<size_t>(options_.max_batch_size);
  for (Step& step : steps_) {
    step.guided.reserve(rows), step.result.rows.reserve(rows);
    step.masks.reserve(options_.max_outputs, (model().vocab + 31) / 32);
  }
}

void EngineCore::engine_loop() {
  std::unique_lock lock(mutex_);
  for (bool more = true; more;) {
    try {
      more = engine_turn(lock);
    } catch (const std::exception& thrown) {  // from nothing that is known
      if (lock.owns_lock()) lock.unlock();
      fail(thrown.what());
      lock.lock();
    }
  }
}

// False: the engine ends.
bool EngineCore::engine_turn(std::unique_lock<std::mutex>& lock) {
  if (!failure_.empty()) fail_all();
  end_expired();
  // Fill the pipeline first, then do the host's work for the oldest finished step.
  while (failure_.empty() && !stopping_ && holds_ == 0 && !free_.empty() && schedule_step(lock)) {
  }
  const bool untold = untold_ > 0;
  if (untold && deliver_errors(lock)) return true;
  if (!done_.empty()) {
    commit_step(lock);
    return true;
  }
  if (stopping_ && idle()) return false;
  if (untold) engine_wake_.wait_for(lock, std::chrono::milliseconds(10));  // for memory
  else wait_for_work(lock);
  return true;
}

void EngineCore::fail(std::string_view why, std::string_view whose) noexcept {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) {
    try {
      std::string text(whose);
      failure_ = std::move(text.append(why));
    } catch (const std::bad_alloc&) {
      failure_ = "out of memory";  // short enough to need none
    }
  }
  failed_.store(true, std::memory_order_release);
  engine_wake_.notify_all();
}

Status EngineCore::health() const {
  return failed_.load(std::memory_order_acquire) ? Error(Code::unavailable, failure_) : Status();
}

EngineWatch EngineCore::watch() const {
  const int sequences = sequences_;
  return {sequences, sequences > 0 ? std::max(0.0, seconds() - progress_) : 0};
}

// The sequence ends with an error, which deliver_errors() tells. `why` lives on.
void EngineCore::end_with(uint64_t id, Code code, const char* why) noexcept {
  scheduler_.finish(SequenceId{id});
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second->error) return;
  found->second->error = why, found->second->error_code = code;
  ++untold_;
  tell_exchange([&] { exchange_->forget(SequenceId{id}); });
  engine_wake_.notify_one();
}

// A step may still be in flight, and it may never end; its tokens will find no entry that waits for them.
void EngineCore::fail_all() noexcept {
  for (const auto& [id, entry] : entries_) end_with(id, Code::unavailable, failure_.c_str());
}

// Tells sinks of the ends that there was nothing to say of. False: one found no memory for it.
bool EngineCore::deliver_errors(std::unique_lock<std::mutex>& lock) {
  for (untold_ = 0;;) {
    const auto found = std::ranges::find_if(entries_, [](const auto& entry) { return entry.second->error != nullptr; });
    if (found == entries_.end()) return true;
    const uint64_t id = found->first;
    std::shared_ptr<Entry> entry = found->second;
    lock.unlock();
    bool told = true;
    try {
      SequenceOutput output;
      output.id = SequenceId{id};
      output.reason = FinishReason::error, output.error = entry->error, output.error_code = entry->error_code;
      entry->sink(output);
    } catch (const std::exception&) {
      told = false;
    }
    lock.lock();
    if (told) take_entry(id);
    lock.unlock();
    entry.reset();  // see cancel()
    lock.lock();
    if (!told) return ++untold_, false;
  }
}

bool EngineCore::schedule_step(std::unique_lock<std::mutex>&) {
  const int index = free_.front();
  Step& step = steps_[index];
  const auto now_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  const bool scheduled = scheduler_.schedule(step.batch, now_us);
  const bool failed = !scheduler_.failed().empty();
  for (const SequenceId id : scheduler_.failed())
    end_with(static_cast<uint64_t>(id), Code::resource_exhausted,
             "memory ran out when a step was made for the request");
  if (!scheduled) return failed;  // the others may find what they need
  step.prompt_tokens = scheduler_.prompt_tokens_of_last_step(), step.prefill_budget = scheduler_.prefill_budget();
  begin_masks(step);
  free_.pop_front();
  submitted_.push_back(index);
  if (!step.guided.empty()) fill_masks();
  tell_exchange([&] { exchange_->stepped(); });
  step_wake_.notify_one();
  return true;
}

void EngineCore::begin_masks(Step& step) {
  step.guided.clear();
  int masks = 0;
  for (const StepBatch::Row& row : step.batch.rows) {
    if (row.guide < 0) continue;
    step.guided.push_back({scheduler_.sequence_in_slot(row.slot), row.guide, 1 + row.drafts, false});
    masks = std::max(masks, row.guide + 1 + row.drafts);
  }
  step.masks.begin(masks, (model().vocab + 31) / 32);
}

// Those of all steps that are not committed, as far as the token before is known: the sequence has no row in an earlier
// one of them. The others are filled by commit_step.
void EngineCore::fill_masks() noexcept {
  ++mask_turns_;
  for (const StepQueue* queue : {&done_, &running_, &submitted_})
    for (const int index : *queue) {
      Step& step = steps_[static_cast<size_t>(index)];
      for (GuidedRow& row : step.guided) {
        const auto found = entries_.find(static_cast<uint64_t>(row.id));
        // The masks of a sequence that has ended stay all ones, since its tokens are dropped.
        if (found != entries_.end()) {
          if (std::exchange(found->second->looked_at, mask_turns_) == mask_turns_) continue;
          if (!row.ready && found->second->grammar) fill_row_masks(step, row, *found->second);
        }
        if (std::exchange(row.ready, true)) continue;
        for (int i = 0; i < row.masks; ++i) step.masks.set_ready();
      }
    }
}

// The grammar goes along the drafts and back. Behind a draft that it forbids nothing can be accepted, so these masks
// stay all ones; so do those of a grammar that fails, which the next accept() reports. Without memory the sequence ends
// here: its next token may be one that the grammar forbids.
void EngineCore::fill_row_masks(Step& step, const GuidedRow& row, Entry& entry) noexcept {
  const double begin = seconds(), work_begin = thread_seconds();
  size_t steps = 0;
  try {
    for (int i = 0;; ++i) {
      if (const Status filled = entry.grammar->fill(step.masks.row(row.first + i)); !filled.ok()) {
        if (filled.error().code() == Code::resource_exhausted) throw std::bad_alloc();
        break;
      }
      if (i + 1 >= row.masks || steps >= entry.drafts.size() || !entry.grammar->accept(entry.drafts[steps]).ok()) break;
      ++steps;
    }
    if (steps > 0) (void)entry.grammar->rollback(steps).ok();
  } catch (const std::exception&) {
    end_with(static_cast<uint64_t>(row.id), Code::resource_exhausted, "memory ran out for the masks of the grammar");
  }
  mask_seconds_[masks_filled_++ % kMasks] = static_cast<float>((seconds() - begin) / static_cast<double>(steps + 1));
  scheduler_.charge_masks(row.id, thread_seconds() - work_begin + std::exchange(entry.accept_seconds, 0.0));
}

void EngineCore::commit_step(std::unique_lock<std::mutex>& lock) {
  const int index = done_.front();
  done_.pop_front();
  scheduler_.measured(steps_[index].batch, steps_[index].result, steps_[index].seconds);
  const std::span<SequenceOutput> committed = scheduler_.commit(steps_[index].result);
  const std::span<SequenceOutput> outputs = std::span(outputs_).first(committed.size());
  std::ranges::swap_ranges(committed, outputs);
  free_.push_back(index);
  adapt_budget(steps_[index]);
  if (tier_) tier_->measured(steps_[index].prompt_tokens, steps_[index].seconds);
  tell_exchange([&] { exchange_->stepped(); });
  // The text side may take its time (and submit or cancel), so it runs without the lock.
  for (SequenceOutput& output : outputs) {
    const auto found = entries_.find(static_cast<uint64_t>(output.id));
    if (found == entries_.end() || found->second->error) continue;  // cancelled meanwhile, or ended
    std::shared_ptr<Entry> entry = found->second;
    lock.unlock();
    bool go_on = false, delivered = false;
    try {
      go_on = deliver(*entry, output);
      delivered = true;
    } catch (const std::exception& thrown) {
    }
    lock.lock();
    if (!delivered) {
      end_with(static_cast<uint64_t>(output.id), Code::resource_exhausted, "memory ran out for the answer's text");
      continue;
    }
    if (go_on && output.reason == FinishReason::none) continue;
    scheduler_.finish(output.id);                  // no effect on a sequence that ended by itself
    take_entry(static_cast<uint64_t>(output.id));  // `entry` has it still
    lock.unlock();
    entry.reset();  // see cancel()
    lock.lock();
  }
  fill_masks();  // the steps in flight were scheduled before these tokens were known
  if (tier_) tier_->wake_exporter();
}

void EngineCore::adapt_budget(const Step& step) {
  if (options_.max_step_ms <= 0) return;
  // The budget is that of all stages together.
  budget_.measured(step.prefill_budget, step.prompt_tokens * scheduler_.options().stages, step.seconds);
  scheduler_.set_prefill_budget(budget_.tokens());
}

bool EngineCore::deliver(Entry& entry, SequenceOutput& output) {
  if (entry.grammar && output.reason != FinishReason::error) follow_grammar(entry, output);
  return entry.sink(output);
}

// Advances the grammar. The sequence ends when it allows nothing but an end token; what was sampled behind that is not
// part of the answer.
void EngineCore::follow_grammar(Entry& entry, SequenceOutput& output) {
  for (size_t i = 0; i < output.tokens.size(); ++i) {
    const double begin = thread_seconds();
    const Status accepted = entry.grammar->accept(output.tokens[i]);
    entry.accept_seconds += thread_seconds() - begin;
    if (!accepted.ok()) {
      output.reason = FinishReason::error;
      output.error = accepted.error().message(), output.error_code = accepted.error().code();
      return;
    }
    if (!entry.grammar->is_finished()) continue;
    if (i + 1 < output.tokens.size()) {
      output.outputs.resize(output.outputs.size() / output.tokens.size() * (i + 1));
      output.tokens.resize(i + 1), output.logprobs.resize(std::min(output.logprobs.size(), i + 1));
      output.accepted = std::min(output.accepted, static_cast<int>(i + 1));
      output.reason = FinishReason::none, output.stop_id = -1;
    }
    if (output.reason == FinishReason::none) output.reason = FinishReason::stop;
  }
  entry.drafts.swap(output.drafts);
}

// The next one to begin, or null: it counts on steps that are still in the pipeline.
EngineCore::Step* EngineCore::next_step() {
  if (submitted_.empty()) return nullptr;
  Step& next = steps_[static_cast<size_t>(submitted_.front())];
  return next.batch.after <= finished_ ? &next : nullptr;
}

void EngineCore::step_loop() {
  const ThreadTeam::Seat seat(ranks_->threads());
  double last_end = 0;
  std::unique_lock lock(mutex_);
  for (bool more = true; more;) {
    try {
      more = step_turn(lock, last_end);
    } catch (const std::exception& thrown) {  // the worker is between two steps, or the other processes are
      if (lock.owns_lock()) lock.unlock();
      fail(thrown.what(), "the engine's step thread: ");
      lock.lock();
      give_up_steps();
    }
  }
}

// False: the engine ends.
bool EngineCore::step_turn(std::unique_lock<std::mutex>& lock, double& last_end) {
  step_wake_.wait(
      lock, [&] { return !submitted_.empty() || !running_.empty() || !encodings_.empty() || (stopping_ && idle()); });
  if (steps_end_) {
    give_up_steps();
    return !(stopping_ && idle());
  }
  if (submitted_.empty() && running_.empty()) {
    if (stopping_ && idle()) return false;
    if (!encodings_.empty()) encode_slice(lock);
    return true;
  }
  run_step(lock, last_end);
  if (!encodings_.empty() && !stopping_) encode_slice(lock);
  return true;
}

// Of an engine that has failed: whatever waits to run will not.
void EngineCore::give_up_steps() noexcept {
  steps_end_ = true;
  for (StepQueue* queue : {&submitted_, &running_})
    for (; !queue->empty(); queue->pop_front()) free_.push_back(queue->front());
  encodings_.clear();
  engine_wake_.notify_all();
}

// One turn of the worker: a step begins, one ends, or both.
void EngineCore::run_step(std::unique_lock<std::mutex>& lock, double& last_end) {
  Step* const next = next_step();
  const bool followed = scheduler_.has_in_flight() && last_end > 0;
  if (next) running_.push_back(submitted_.front()), submitted_.pop_front();
  ++turns_, busy_stages_ += running_.size();
  lock.unlock();
  got_on();
  const double begin = seconds();
  if (next) next->began = begin;
  const Worker::Step entering = next ? Worker::Step{&next->batch, &next->masks, &next->result} : Worker::Step{};
  const bool finished = worker_->run(next ? &entering : nullptr);
  const double end = seconds();
  got_on();
  lock.lock();
  step_seconds_ += end - begin;
  sample_seconds_ = worker_->sample_seconds();
  const double waited = worker_->mask_wait_seconds() - std::exchange(mask_wait_seconds_, worker_->mask_wait_seconds());
  if (followed && begin - last_end < 1.0) idle_gap_seconds_ += begin - last_end;
  last_end = end;
  if (!finished) return;
  Step& step = steps_[static_cast<size_t>(running_.front())];
  // In full stages a step ends a turn after the one before.
  step.seconds = end - std::max(step.began, last_finish_);
  last_finish_ = end;
  // Masks may take what the step computes, beside which they are filled. A prompt's step says nothing about others.
  constexpr double kNew = 0.125;
  if (step.prompt_tokens == 0) compute_seconds_ += kNew * (std::max(0.0, step.seconds - waited) - compute_seconds_);
  scheduler_.set_mask_budget(compute_seconds_);
  finished_ = step.batch.step;
  if (tier_) tier_->step_finished(finished_);
  tell_exchange([&] { exchange_->step_finished(finished_); });
  done_.push_back(running_.front());
  running_.pop_front();
  engine_wake_.notify_one();
}

int64_t EngineCore::steps() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(scheduler_.steps());
}

CoreMetrics EngineCore::metrics() const {
  std::unique_lock lock(mutex_);
  CoreMetrics metrics{.scheduler = scheduler_.metrics(),
                      .step_seconds = step_seconds_,
                      .images_encoded = std::accumulate(images_encoded_.begin(), images_encoded_.end(), uint64_t{0}),
                      .images_reused = images_reused_,
                      .idle_gap_seconds = idle_gap_seconds_,
                      .sample_seconds = sample_seconds_,
                      .images_of_processes = images_encoded_};
  metrics.prefill_budget = scheduler_.prefill_budget();
  std::vector<float> masks(mask_seconds_.begin(),
                           mask_seconds_.begin() + static_cast<ptrdiff_t>(std::min(masks_filled_, kMasks)));
  metrics.cache.resize(scheduler_.cache(0).groups());
  for (int home = 0; home < scheduler_.homes(); ++home)
    for (size_t g = 0; g < metrics.cache.size(); ++g)
      metrics.cache[g] += scheduler_.cache(home).gauges(static_cast<int>(g));
  metrics.stages = scheduler_.options().stages, metrics.turns = turns_, metrics.busy_stages = busy_stages_;
  metrics.homes = scheduler_.home_metrics();
  if ((metrics.has_tier = tier_ != nullptr)) metrics.tier = tier_->metrics();
  if ((metrics.has_adapters = adapters_ != nullptr)) metrics.adapters = adapters_->metrics();
  if ((metrics.has_transfer = exchange_ != nullptr)) metrics.transfer = exchange_->metrics();
  lock.unlock();
  std::sort(masks.begin(), masks.end());
  if (!masks.empty())
    metrics.mask_p50_seconds = masks[masks.size() / 2], metrics.mask_p99_seconds = masks[masks.size() * 99 / 100];
  return metrics;
}

std::pair<std::vector<CacheEvent>, uint64_t> EngineCore::take_cache_events() {
  const std::lock_guard lock(mutex_);
  return scheduler_.take_cache_events();
}

}  // namespace weft
