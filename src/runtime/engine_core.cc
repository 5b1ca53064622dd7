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
      scheduler_(std::move(scheduler)), steps_(static_cast<size_t>(steps)),
      budget_(options.max_step_ms / 1000, std::min(options.prefill_tokens, options.max_num_tokens)),
      mask_seconds_(kMasks), features_(options.feature_cache_bytes) {
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
  if (options.store)
    core->tier_ = std::make_unique<CacheTier>(
        options.store, CacheTier::Options{options.tier_always}, core->worker_->runner(), core->mutex_, core->scheduler_,
        [raw = core.get()](SequenceId id) { raw->ask_other_servers(id); },
        [raw = core.get()] { raw->engine_wake_.notify_one(); });
  if (core->model().vision) {
    core->encoders_ = std::make_unique<ImageEncoders>(core->model(), *core->ranks_, vision);
    core->images_encoded_.resize(static_cast<size_t>(core->encoders_->processes()));
  }
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

void EngineCore::engine_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!failure_.empty() && !entries_.empty()) fail_all(lock);
    end_expired(lock);
    // Fill the pipeline first, then do the host's work for the oldest finished step.
    while (failure_.empty() && !stopping_ && holds_ == 0 && !free_.empty() && schedule_step(lock)) {
    }
    if (!done_.empty()) {
      commit_step(lock);
      continue;
    }
    if (stopping_ && idle()) return;
    wait_for_work(lock);
  }
}

void EngineCore::fail(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = why;
  engine_wake_.notify_all();
}

Status EngineCore::health() const {
  const std::lock_guard lock(mutex_);
  return failure_.empty() ? Status() : Error(Code::unavailable, failure_);
}

// A step may still be in flight, and it may never end; its tokens will find no entry.
void EngineCore::fail_all(std::unique_lock<std::mutex>& lock) {
  auto entries = std::exchange(entries_, {});
  deadlines_.clear();
  for (const auto& [id, entry] : entries) {
    scheduler_.finish(SequenceId{id});
    if (exchange_) exchange_->forget(SequenceId{id});
  }
  SequenceOutput output;
  output.reason = FinishReason::error, output.error = failure_, output.error_code = Code::unavailable;
  lock.unlock();
  for (auto& [id, entry] : entries) {
    output.id = SequenceId{id};
    entry->sink(output);
  }
  entries.clear();
  lock.lock();
}

bool EngineCore::schedule_step(std::unique_lock<std::mutex>&) {
  const int index = free_.front();
  Step& step = steps_[index];
  const auto now_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  if (!scheduler_.schedule(step.batch, now_us)) return false;
  step.prompt_tokens = scheduler_.prompt_tokens_of_last_step(), step.prefill_budget = scheduler_.prefill_budget();
  begin_masks(step);
  free_.pop_front();
  submitted_.push_back(index);
  if (!step.guided.empty()) fill_masks();
  if (exchange_) exchange_->stepped();
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
void EngineCore::fill_masks() {
  undecided_.clear();
  for (const std::deque<int>* queue : {&done_, &running_, &submitted_})
    for (const int index : *queue) {
      Step& step = steps_[static_cast<size_t>(index)];
      for (GuidedRow& row : step.guided) {
        if (!undecided_.insert(static_cast<uint64_t>(row.id)).second || row.ready) continue;
        const auto found = entries_.find(static_cast<uint64_t>(row.id));
        // The masks of a sequence that has ended stay all ones, since its tokens are dropped.
        if (found != entries_.end() && found->second->grammar) fill_row_masks(step, row, *found->second);
        row.ready = true;
        for (int i = 0; i < row.masks; ++i) step.masks.set_ready();
      }
    }
}

// The grammar goes along the drafts and back. Behind a draft that it forbids nothing can be accepted, so these masks
// stay all ones; so do those of a grammar that fails, which the next accept() reports.
void EngineCore::fill_row_masks(Step& step, const GuidedRow& row, Entry& entry) {
  const double begin = seconds();
  size_t steps = 0;
  for (int i = 0;; ++i) {
    if (!entry.grammar->fill(step.masks.row(row.first + i)).ok()) break;
    if (i + 1 >= row.masks || steps >= entry.drafts.size() || !entry.grammar->accept(entry.drafts[steps]).ok()) break;
    ++steps;
  }
  if (steps > 0) (void)entry.grammar->rollback(steps).ok();
  mask_seconds_[masks_filled_++ % kMasks] = static_cast<float>((seconds() - begin) / static_cast<double>(steps + 1));
}

void EngineCore::commit_step(std::unique_lock<std::mutex>& lock) {
  const int index = done_.front();
  done_.pop_front();
  scheduler_.measured(steps_[index].batch, steps_[index].result, steps_[index].seconds);
  const std::span<const SequenceOutput> committed = scheduler_.commit(steps_[index].result);
  outputs_.assign(committed.begin(), committed.end());
  free_.push_back(index);
  adapt_budget(steps_[index]);
  if (tier_) tier_->measured(steps_[index].prompt_tokens, steps_[index].seconds);
  if (exchange_) exchange_->stepped();
  // The text side may take its time (and submit or cancel), so it runs without the lock.
  for (SequenceOutput& output : outputs_) {
    const auto found = entries_.find(static_cast<uint64_t>(output.id));
    if (found == entries_.end()) continue;  // cancelled meanwhile
    std::shared_ptr<Entry> entry = found->second;
    lock.unlock();
    const bool go_on = deliver(*entry, output);
    lock.lock();
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
    if (Status accepted = entry.grammar->accept(output.tokens[i]); !accepted.ok()) {
      output.reason = FinishReason::error;
      output.error = accepted.error().message();
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
  for (;;) {
    step_wake_.wait(
        lock, [&] { return !submitted_.empty() || !running_.empty() || !encodings_.empty() || (stopping_ && idle()); });
    if (submitted_.empty() && running_.empty()) {
      if (stopping_ && idle()) return;
      if (!encodings_.empty()) encode_slice(lock);
      continue;
    }
    run_step(lock, last_end);
    if (!encodings_.empty() && !stopping_) encode_slice(lock);
  }
}

// One turn of the worker: a step begins, one ends, or both.
void EngineCore::run_step(std::unique_lock<std::mutex>& lock, double& last_end) {
  Step* const next = next_step();
  const bool followed = scheduler_.has_in_flight() && last_end > 0;
  if (next) running_.push_back(submitted_.front()), submitted_.pop_front();
  ++turns_, busy_stages_ += running_.size();
  lock.unlock();
  const double begin = seconds();
  if (next) next->began = begin;
  const Worker::Step entering = next ? Worker::Step{&next->batch, &next->masks, &next->result} : Worker::Step{};
  const bool finished = worker_->run(next ? &entering : nullptr);
  const double end = seconds();
  lock.lock();
  step_seconds_ += end - begin;
  sample_seconds_ = worker_->sample_seconds();
  if (followed && begin - last_end < 1.0) idle_gap_seconds_ += begin - last_end;
  last_end = end;
  if (!finished) return;
  Step& step = steps_[static_cast<size_t>(running_.front())];
  // In full stages a step ends a turn after the one before.
  step.seconds = end - std::max(step.began, last_finish_);
  last_finish_ = end;
  finished_ = step.batch.step;
  if (tier_) tier_->step_finished(finished_);
  if (exchange_) exchange_->step_finished(finished_);
  done_.push_back(running_.front());
  running_.pop_front();
  engine_wake_.notify_one();
}

int64_t EngineCore::steps() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(scheduler_.steps());
}

CoreMetrics EngineCore::metrics() const {
  const std::lock_guard lock(mutex_);
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
  std::sort(masks.begin(), masks.end());
  if (!masks.empty())
    metrics.mask_p50_seconds = masks[masks.size() / 2], metrics.mask_p99_seconds = masks[masks.size() * 99 / 100];
  metrics.cache.resize(scheduler_.cache(0).groups());
  for (int home = 0; home < scheduler_.homes(); ++home)
    for (size_t g = 0; g < metrics.cache.size(); ++g)
      metrics.cache[g] += scheduler_.cache(home).gauges(static_cast<int>(g));
  metrics.stages = scheduler_.options().stages, metrics.turns = turns_, metrics.busy_stages = busy_stages_;
  metrics.homes = scheduler_.home_metrics();
  if ((metrics.has_tier = tier_ != nullptr)) metrics.tier = tier_->metrics();
  if ((metrics.has_transfer = exchange_ != nullptr)) metrics.transfer = exchange_->metrics();
  return metrics;
}

std::pair<std::vector<CacheEvent>, uint64_t> EngineCore::take_cache_events() {
  const std::lock_guard lock(mutex_);
  return scheduler_.take_cache_events();
}

}  // namespace weft
