// Sequences coming in and going out; schedule.cc fills steps, commit.cc takes their results.
#include "sched/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "base/make_room.h"
#include "sched/home.h"
#include "sched/sequence.h"

namespace weft {
namespace {

Status check_options(const SchedulerOptions& options) {
  auto positive = [](const char* name, int value) -> Status {
    if (value >= 1) return {};
    return fail(Code::invalid_argument, name, " is ", value, ", must be at least 1").about(name);
  };
  WEFT_RETURN_IF_ERROR(positive("homes", options.homes));
  WEFT_RETURN_IF_ERROR(positive("max_batch_size", options.max_batch_size));
  WEFT_RETURN_IF_ERROR(positive("max_num_tokens", options.max_num_tokens));
  WEFT_RETURN_IF_ERROR(positive("max_logit_rows", options.max_logit_rows));
  WEFT_RETURN_IF_ERROR(positive("max_seq_len", options.max_seq_len));
  WEFT_RETURN_IF_ERROR(positive("stages", options.stages));
  WEFT_RETURN_IF_ERROR(positive("overlap", options.overlap));
  if (options.aging_steps < 0)
    return fail(Code::invalid_argument, "aging_steps is ", options.aging_steps, ", must not be negative")
        .about("aging_steps");
  if (options.turn_steps < 0)
    return fail(Code::invalid_argument, "turn_steps is ", options.turn_steps, ", must not be negative")
        .about("turn_steps");
  if (options.balance_wait_us < 0)
    return fail(Code::invalid_argument, "balance_wait_us is ", options.balance_wait_us, ", must not be negative")
        .about("balance_wait_us");
  return {};
}

// Tokens that the sequence may generate.
int most_outputs(const NewSequence& sequence, int max_seq_len) {
  if (sequence.task == Task::score) return 0;
  return std::min(sequence.sampling->max_tokens, max_seq_len - static_cast<int>(sequence.prompt.size()));
}

// Strict priorities leave room for every arrival step that can occur.
int64_t rank_of(int priority, int64_t arrival_step, int aging_steps) {
  if (aging_steps == 0) return -static_cast<int64_t>(priority) * (int64_t{1} << 31);
  return arrival_step - static_cast<int64_t>(priority) * aging_steps;
}

}  // namespace

Result<Scheduler> Scheduler::create(SchedulerOptions options, std::vector<CacheManager> caches) {
  WEFT_RETURN_IF_ERROR(check_options(options));
  WEFT_CHECK(static_cast<int>(caches.size()) == options.homes)
      << caches.size() << " caches for " << options.homes << " homes";
  return Scheduler(options, std::move(caches));
}

Scheduler::Scheduler(SchedulerOptions options, std::vector<CacheManager> caches)
    : options_(options), homes_(std::make_move_iterator(caches.begin()), std::make_move_iterator(caches.end())),
      policy_(options.speculation), turns_(options.aging_steps), at_once_(std::min(options.stages, options.overlap)),
      prefill_budget_(options.max_num_tokens) {
  const size_t batch = options_.max_batch_size;
  constexpr size_t kLeftDebts = 64;
  running_.reserve(batch), ready_.reserve(batch), closes_.reserve(batch), left_debts_.reserve(kLeftDebts);
  slots_.assign(batch, nullptr);
  for (int slot = options_.max_batch_size - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  records_.resize(options_.overlap);
  for (StepRecord& record : records_) record.rows.reserve(batch);
  outputs_.resize(batch);
}
Scheduler::Scheduler(Scheduler&&) = default;
Scheduler& Scheduler::operator=(Scheduler&&) = default;
Scheduler::~Scheduler() = default;

Status Scheduler::check_new(const NewSequence& sequence) const {
  const int64_t prompt = static_cast<int64_t>(sequence.prompt.size());
  if (prompt == 0) return fail(Code::invalid_argument, "the prompt has no tokens").about("prompt");
  const bool generate = sequence.task == Task::generate;
  WEFT_CHECK(!generate || sequence.sampling != nullptr) << "a sequence that generates has no sampling parameters";
  if (generate && sequence.sampling->max_tokens < 0) {
    return fail(Code::invalid_argument, "max_tokens is ", sequence.sampling->max_tokens, ", must not be negative")
        .about("max_tokens");
  }
  WEFT_CHECK(sequence.output.empty() ||
             (generate && sequence.sampling->max_tokens > static_cast<int>(sequence.output.size())))
      << "a sequence goes on from more tokens than it may have";
  const bool samples = generate && sequence.sampling->max_tokens > 0;
  if (prompt + static_cast<int64_t>(sequence.output.size()) + samples > options_.max_seq_len) {
    return fail(Code::invalid_argument, "the prompt has ", prompt, " tokens",
                samples ? " and leaves no room for an answer" : "", ", max_seq_len is ", options_.max_seq_len)
        .about("prompt");
  }
  if ((sequence.whole || !options_.chunked_prefill) && prompt > options_.max_num_tokens) {
    return fail(Code::invalid_argument, "the prompt has ", prompt, " tokens and must be computed in one step (",
                sequence.whole ? "the model reads it as a whole" : "chunked prefill is off", "), max_num_tokens is ",
                options_.max_num_tokens)
        .about("prompt");
  }
  const bool all_rows = generate ? sequence.sampling->prompt_logprobs >= 0 || sequence.sampling->context_logits
                                 : sequence.score_rows == LogitRows::all;
  if (sequence.whole_media && sequence.media) {
    const int room = all_rows ? std::min(options_.max_num_tokens, options_.max_logit_rows) : options_.max_num_tokens;
    for (const MediaPrompt::Span& span : sequence.media->spans)
      if (span.count > room)
        return fail(Code::invalid_argument, "an image has ", span.count,
                    " tokens that must be computed in one step, which takes ", room,
                    all_rows ? " with a result of each" : " (max_num_tokens)")
            .about("prompt");
  }
  if (sequence.whole && all_rows && prompt > options_.max_logit_rows) {
    return fail(Code::invalid_argument, "the prompt has ", prompt,
                " tokens and asks for a result of each in one step, max_logit_rows is ", options_.max_logit_rows)
        .about("prompt");
  }
  return check_cache_room(sequence, generate ? most_outputs(sequence, options_.max_seq_len) : 0);
}

// The last token's KV is never needed, so it takes no room, but for a drafter that writes one position ahead.
Status Scheduler::check_cache_room(const NewSequence& sequence, int max_outputs) const {
  const int64_t prompt = static_cast<int64_t>(sequence.prompt.size());
  const int64_t positions =
      std::min<int64_t>(options_.max_seq_len, prompt + std::max(0, max_outputs - 1) + options_.draft_ahead);
  const bool split = options_.chunked_prefill && !sequence.whole;
  const CacheManager& cache = homes_[0].cache;  // they are all alike
  const int64_t budget = cache.options().budget_bytes, bytes = cache.bytes_for(positions, split ? 1 : prompt);
  if (bytes <= budget) return {};
  const bool prompt_fits = cache.bytes_for(prompt, split ? 1 : prompt) <= budget;
  return fail(Code::invalid_argument, "the prompt of ", prompt, " tokens and ", max_outputs,
              " tokens to generate need ", bytes, " bytes of KV cache, which has ", budget,
              " bytes (room for one sequence of ", cache.max_sequence_tokens(), " tokens)")
      .about(prompt_fits ? "max_tokens" : "prompt");
}

Result<SequenceId> Scheduler::add(NewSequence request) {
  WEFT_RETURN_IF_ERROR(check_new(request));
  auto owner = std::make_unique<Sequence>();
  Sequence& sequence = *owner;
  sequence.id = SequenceId{next_id_++};
  sequence.priority = request.priority;
  sequence.added_us = now_us_;
  sequence.rank =
      rank_of(request.priority, request.arrival_step >= 0 ? request.arrival_step : static_cast<int64_t>(metrics_.steps),
              options_.aging_steps);
  sequence.added_step = now();
  sequence.task = request.task;
  sequence.score_rows = request.score_rows;
  sequence.whole = request.whole, sequence.guided = request.guided;
  sequence.prompt_tokens = static_cast<int>(request.prompt.size());
  sequence.max_outputs = most_outputs(request, options_.max_seq_len);
  const bool samples = sequence.task == Task::generate;
  sequence.speculates =
      options_.speculation.most() > 0 &&
      (!samples || (request.sampling->beam_candidates == 0 && request.sampling->max_draft_tokens != 0));
  sequence.prompt = std::move(request.prompt), sequence.first_output = std::move(request.output);
  sequence.token_types = std::move(request.token_types);
  sequence.media = std::move(request.media), sequence.adapter = std::move(request.adapter);
  sequence.whole_media = request.whole_media;
  sequence.sampling = std::move(request.sampling), sequence.seed = request.seed;
  sequence.prompt_results = request.prompt_results;
  sequence.identity = std::move(request.cache);
  if (sequence.task == Task::score) {
    sequence.rows_end = sequence.score_rows == LogitRows::all ? sequence.prompt_tokens : 0;
  } else if (sequence.prompt_results && sequence.sampling->context_logits) {
    sequence.rows_end = sequence.prompt_tokens;
  } else if (sequence.prompt_results && sequence.sampling->prompt_logprobs >= 0) {
    sequence.rows_end = sequence.prompt_tokens - 1;
  }
  // What it may need later to be given up.
  const size_t all = sequences_.size() + 1;
  make_room(failed_, all - std::min(all, failed_.size()));
  const SequenceId id = sequence.id;
  const auto place = sequences_.emplace(static_cast<uint64_t>(id), std::move(owner)).first;
  try {
    turns_.add(sequence, request.client, request.request);
  } catch (...) {
    sequences_.erase(place);
    throw;
  }
  if (request.held) sequence.state = Sequence::State::held;
  else enqueue(sequence);
  ++metrics_.added;
  return id;
}

void Scheduler::enqueue(Sequence& sequence) noexcept {
  sequence.state = Sequence::State::waiting;
  sequence.retry_version = 0, sequence.shared_block = -1;
  turns_.insert(sequence);
}

void Scheduler::release(SequenceId id) noexcept {
  const auto found = sequences_.find(static_cast<uint64_t>(id));
  if (found != sequences_.end() && found->second->state == Sequence::State::held) enqueue(*found->second);
}

bool Scheduler::finish(SequenceId id) noexcept {
  const auto found = sequences_.find(static_cast<uint64_t>(id));
  if (found == sequences_.end() || found->second->state == Sequence::State::finished) return false;
  end(*found->second);
  return true;
}

// From now on nothing is scheduled for it. Its blocks and its slot stay until no step in flight mentions it.
void Scheduler::end(Sequence& sequence) noexcept {
  leave_mask_debt(sequence);
  if (sequence.state == Sequence::State::waiting) turns_.erase(sequence);
  if (sequence.state == Sequence::State::running) stop_running(sequence);
  sequence.state = Sequence::State::finished;
  ++metrics_.finished;
  if (sequence.in_flight == 0) retire(sequence);
}

void Scheduler::stop_running(Sequence& sequence) noexcept {
  running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  order_changed_ = true;
  turns_.stopped(sequence);
}

void Scheduler::retire(Sequence& sequence) noexcept {
  if (options_.store && sequence.started) queue_export(sequence);
  cache_of(sequence).release(sequence.cache);
  close_slot(sequence);
  turns_.remove(sequence);
  sequences_.erase(static_cast<uint64_t>(sequence.id));
}

void Scheduler::close_slot(Sequence& sequence) noexcept {
  if (sequence.slot < 0) return;
  closes_.push_back(sequence.slot);
  free_slots_.push_back(sequence.slot);
  slots_[sequence.slot] = nullptr;
  sequence.slot = -1;
}

CacheManager& Scheduler::cache(int home) { return homes_[home].cache; }
const CacheManager& Scheduler::cache(int home) const { return homes_[home].cache; }

bool Scheduler::idle() const { return sequences_.empty() && records_in_flight_ == 0; }
bool Scheduler::has_in_flight() const { return records_in_flight_ > 0; }

void Scheduler::set_prefill_budget(int tokens) { prefill_budget_ = std::clamp(tokens, 1, options_.max_num_tokens); }

int Scheduler::prefill_budget_of_step() const {
  return options_.chunked_prefill ? divide_up(prefill_budget_, at_once_) : prefill_budget_;
}

void Scheduler::measured(const StepBatch& batch, const StepResult& result, double seconds) {
  int rows = 0, proposals = 0;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    // A row of a sequence that has ended is left out, which costs nothing.
    if (batch.rows[i].tokens > 1 || result.rows[i].tokens.empty()) return;
    rows += 1 + result.rows[i].drafted, proposals += static_cast<int>(result.rows[i].drafts.size());
  }
  policy_.measured(rows, proposals, seconds);
}

SequenceId Scheduler::sequence_in_slot(Slot slot) const {
  WEFT_CHECK(slots_[slot] != nullptr) << "slot " << slot << " is not open";
  return slots_[slot]->id;
}

const CacheSequence& Scheduler::cache_in_slot(Slot slot) const {
  WEFT_CHECK(slots_[slot] != nullptr) << "slot " << slot << " is not open";
  return slots_[slot]->cache;
}

SchedulerMetrics Scheduler::metrics() const {
  SchedulerMetrics metrics = metrics_;
  metrics.running = static_cast<int>(running_.size());
  metrics.waiting = static_cast<int>(turns_.waiting());
  metrics.queued_requests = turns_.queued();
  metrics.in_flight_steps = static_cast<int>(records_in_flight_);
  if (recent_paced_ > 0) metrics.balance_ratio = recent_tokens_ / recent_paced_;
  return metrics;
}

void Scheduler::check_integrity() const {
  std::vector<std::vector<const CacheSequence*>> holders(homes_.size());
  std::unordered_map<const Sequence*, std::pair<int, int>> in_flight;  // rows, and those that sample
  for (size_t i = 0; i < records_in_flight_; ++i)
    for (const RowRecord& row : records_[(first_record_ + i) % records_.size()].rows)
      ++in_flight[row.sequence].first, in_flight[row.sequence].second += row.row.sample;
  size_t waiting = 0, running = 0, open = 0;
  for (const auto& [id, owner] : sequences_) {
    const Sequence& s = *owner;
    waiting += s.state == Sequence::State::waiting, running += s.state == Sequence::State::running;
    WEFT_CHECK(s.state != Sequence::State::finished || s.in_flight > 0) << "sequence " << id << " should be gone";
    WEFT_CHECK(std::pair(s.in_flight, s.pending_samples) == in_flight[&s]) << "sequence " << id;
    in_flight.erase(&s);
    WEFT_CHECK(s.computed <= s.scheduled);
    WEFT_CHECK(s.state == Sequence::State::finished ||
               (s.computed <= s.known() && s.scheduled <= s.known() + std::max(0, s.pending_samples - 1)));
    // With drafts an end by length can come sooner than it was certain.
    WEFT_CHECK(s.speculates || s.outputs() + s.pending_samples <= s.max_outputs)
        << "sequence " << id << " wastes a step";
    WEFT_CHECK(s.state == Sequence::State::running ? s.slot >= 0 : s.state == Sequence::State::finished || s.slot < 0);
    WEFT_CHECK(s.slot < 0 || slots_[s.slot] == &s);
    open += s.slot >= 0;
    if (!s.cache.tables.empty()) holders[s.home].push_back(&s.cache);
  }
  for (const BlockTransfer* transfer : transfers_)
    if (!transfer->cache.tables.empty()) holders[transfer->home].push_back(&transfer->cache);
  WEFT_CHECK(in_flight.empty()) << "a step in flight has a row of a sequence that is gone";
  WEFT_CHECK(waiting == turns_.waiting() && running == running_.size());
  WEFT_CHECK(open + free_slots_.size() == slots_.size()) << "a slot is lost";
  WEFT_CHECK(std::is_sorted(running_.begin(), running_.end(), by_place));
  turns_.check_integrity();
  for (size_t h = 0; h < homes_.size(); ++h) homes_[h].cache.check_integrity(holders[h]);
}

}  // namespace weft
