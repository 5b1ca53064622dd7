// Filling a step. Decode rows that have their turn go in by rank, so that whoever runs out of blocks finds the victims
// of lower rank not yet in the step; prompts likewise, running ones merged with those whose turn it is.
#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "sched/home.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {

namespace {

// Sequences that wait and are looked at in a step in vain.
constexpr int kMostPassedOver = 1024;

}  // namespace

bool Scheduler::schedule(StepBatch& batch, int64_t now_us) {
  batch.clear(), failed_.clear();
  if (records_in_flight_ == records_.size()) return false;
  now_us_ = now_us;
  for (Home& home : homes_) home.cache.begin_step(now_us), home.load = 0, home.has_prompt_row = false;
  try {
    prepare(batch);
  } catch (const std::bad_alloc&) {
    give_up_last();
    return false;
  }
  order_running();
  yield_slots();
  StepRecord& record = filling();
  record.rows.clear();
  record.step = batch.step = ++step_;
  const int prompt_tokens = prefill_budget_of_step();
  Budget budget{options_.max_num_tokens, options_.max_logit_rows, prompt_tokens};
  fill_step(batch, budget);
  if (!failed_.empty()) end_given_up();
  if (record.rows.empty()) {
    WEFT_CHECK(has_in_flight() || !transfers_.empty() || !failed_.empty() ||
               (running_.empty() && turns_.waiting() == 0))
        << "sequences are left but none can advance";
    --step_;  // numbers of steps have no gaps
    return false;
  }
  last_prompt_tokens_ = prompt_tokens - budget.prompt_tokens;
  finish_batch(batch);
  if (debtors_ > 0) pay_masks(mask_budget_ / static_cast<double>(debtors_));
  count_balance();
  ++records_in_flight_;
  ++metrics_.steps;
  metrics_.scheduled_tokens += static_cast<uint64_t>(batch.total_tokens());
  return true;
}

// What it holds stays as it is until the step is filled. A slot that the step would have opened for it is free again.
void Scheduler::give_up(Sequence& sequence, StepBatch* batch, size_t opens) {
  if (batch && batch->opens.size() > opens) {
    batch->opens.pop_back();
    free_slots_.push_back(sequence.slot);
    slots_[sequence.slot] = nullptr;
    sequence.slot = -1;
  }
  sequence.last_step = step_;
  if (std::exchange(sequence.given_up, true)) return;
  failed_.push_back(sequence.id);
}

// There was no memory to begin a step at all: whoever is last in rank makes room.
void Scheduler::give_up_last() {
  const Sequence* last = running_.empty() ? nullptr : running_.back();
  turns_.for_each([&](const Sequence& sequence) {
    if (!last || last->state == Sequence::State::running || last->outranks(sequence)) last = &sequence;
  });
  if (!last) return;
  failed_.push_back(last->id);
  end_given_up();
}

void Scheduler::end_given_up() noexcept {
  for (const SequenceId id : failed_) finish(id);
}

// Without those whose grammars take long, unless there is nobody else.
void Scheduler::fill_step(StepBatch& batch, Budget& budget) {
  share_mask_budget();
  fill(batch, budget);
  while (filling().rows.empty() && failed_.empty() && !has_in_flight() && forgive_masks()) fill(batch, budget);
}

void Scheduler::fill(StepBatch& batch, Budget& budget) {
  if (std::exchange(prompt_starved_, false)) {
    add_prompts(batch, budget, true);
    add_decodes(batch, budget, false);
    add_prompts(batch, budget, false);
  } else {
    add_decodes(batch, budget, false);
    prompt_starved_ = !add_prompts(batch, budget, false);
  }
  if (filling().rows.empty() && at_once_ > 1) add_decodes(batch, budget, true);
}

// Room in the batch's vectors for everything that steady decoding can put there. In a group a row may send the blocks
// that it begins and, with the smallest blocks, replaced ones as many as the steps in flight have written; each step
// with its drafts, and what is proposed on top.
void Scheduler::prepare(StepBatch& batch) {
  const size_t rows = options_.max_batch_size, overlap = options_.overlap;
  const CacheManager& cache = homes_[0].cache;
  const size_t drafts = (overlap + 2) * static_cast<size_t>(policy_.most());
  batch.rows.reserve(rows), batch.closes.reserve(rows), closes_.reserve(rows);
  batch.tokens.reserve(options_.max_num_tokens);
  batch.entries.reserve(rows * static_cast<size_t>(cache.groups()) *
                        (overlap + 1 + drafts / static_cast<size_t>(cache.options().tokens_per_block)));
}

// Whose turn it is: of the sequences that are ready and whose last token will be there when the step begins, those that
// have waited longest; with `ahead` of those instead that the oldest step in flight samples for, which the step then
// waits for. They are the first of `ready_`; others come to it when one of these finds no block. Each part is in order
// of rank.
void Scheduler::choose_decodes(const Budget& budget, bool ahead) {
  ready_.clear(), chosen_ = 0;
  for (Home& home : homes_) home.turns = 0;
  const uint64_t oldest = records_[first_record_].step;
  for (Sequence* sequence : running_) {
    if (!sequence->ready_to_decode() || sequence->last_step == step_ || owes_masks(*sequence)) continue;
    ++homes_[sequence->home].turns;
    const bool there = sequence->pending_samples == 0 || sequence->last_step + static_cast<uint64_t>(at_once_) <= step_;
    if (ahead ? !there && sequence->last_step == oldest : there) ready_.push_back(sequence);
  }
  for (Home& home : homes_) home.turns = divide_up(home.turns, at_once_);
  const size_t most = std::min(budget.tokens, budget.logit_rows);
  const bool all = at_once_ == 1 && ready_.size() <= most;
  const auto waited_longer = [](const Sequence* a, const Sequence* b) {
    return a->last_step != b->last_step ? a->last_step < b->last_step : by_place(a, b);
  };
  if (!all) std::ranges::sort(ready_, waited_longer);
  for (size_t i = 0; i < ready_.size() && chosen_ < most; ++i)
    if (int& turns = homes_[ready_[i]->home].turns; turns > 0) --turns, std::swap(ready_[i], ready_[chosen_++]);
  if (all) return;
  const auto middle = ready_.begin() + static_cast<ptrdiff_t>(chosen_);
  std::sort(ready_.begin(), middle, by_place);
  std::sort(middle, ready_.end(), by_place);
}

void Scheduler::add_decodes(StepBatch& batch, Budget& budget, bool ahead) {
  choose_decodes(budget, ahead);
  for (size_t i = 0; i < ready_.size(); ++i) {
    if (budget.tokens == 0 || budget.logit_rows == 0) return;
    int& turns = homes_[ready_[i]->home].turns;
    if (i >= chosen_ && turns == 0) continue;
    turns -= i >= chosen_;
    const size_t others = (i < chosen_ ? chosen_ : ready_.size()) - i - 1;
    const bool runs = ready_[i]->state == Sequence::State::running;  // else it was preempted for one before it
    bool added = false;
    if (runs)
      try_for(*ready_[i], &batch, [&] { added = add_decode(batch, budget, *ready_[i], static_cast<int>(others)); });
    if (!added) ++turns;
  }
}

// With the drafts that were promised, as far as the budgets leave a row for each of the `others` behind it and there
// are blocks; without them otherwise. False: there are none for the row itself.
bool Scheduler::add_decode(StepBatch& batch, Budget& budget, Sequence& sequence, int others) {
  const int left = sequence.max_outputs - sequence.outputs() - sequence.pending_samples;
  const int room = std::min(budget.tokens, budget.logit_rows) - 1 - others;
  int drafts = std::clamp(std::min(sequence.promised, left), 0, std::max(0, room));
  // What only scores, or asks for logits of its prompt, samples nothing: its last row is the prompt's.
  const bool samples = sequence.max_outputs > 0;
  int propose = proposals(sequence, samples, samples);
  const int end = sequence.scheduled + sequence.slack + 1;
  if (!cache_of(sequence).reserve(sequence.cache, reach(sequence, end + drafts, propose))) {
    drafts = 0, propose = std::min(propose, options_.draft_ahead);
    if (!reserve_or_preempt(sequence, reach(sequence, end, propose))) return false;
  }
  add_row(batch, budget, sequence, 1, drafts, propose);
  if (sequence.decodes_since < 0) sequence.decodes_since = now();
  return true;
}

// Positions that a row reserves which computes those below `end`: a drafter with a cache writes behind them.
int Scheduler::reach(const Sequence& sequence, int end, int propose) const {
  if (options_.draft_ahead > 0) end += std::max(options_.draft_ahead, propose);
  const int outputs = sequence.task == Task::score ? 1 : sequence.max_outputs;  // a score is followed by one token
  return std::min({end, sequence.prompt_tokens + outputs, options_.max_seq_len});
}

// Drafts that the sequence's next row should propose, as StepBatch::Row::propose. `decode`: it is no row of a prompt,
// behind which the drafter's cache goes on in any case.
int Scheduler::proposals(Sequence& sequence, bool samples, bool decode) {
  const int least = options_.draft_ahead > 0 && sequence.speculates && !decode ? 0 : -1;
  if (!samples || !sequence.speculates) return least;
  const int left = sequence.max_outputs - sequence.outputs() - sequence.pending_samples - 1;
  const int others = std::max(0, static_cast<int>(chosen_) - decode);
  const int drafts = std::min(left, policy_.choose(sequence.drafts, others, sequence.sampling->max_draft_tokens));
  return drafts > 0 ? drafts : least;
}

// Running and waiting prompts in turn; `one_each`: one of each home. False if the first that has a slot, or finds one,
// got nothing for want of a budget, or the first of a home for want of blocks whose holders are in the step already.
bool Scheduler::add_prompts(StepBatch& batch, Budget& budget, bool one_each) {
  share_out(budget, one_each);
  bool served = false, starved = false, admitting = !holds_prompts_back();
  int passed_over = 0;  // not too many, for they are looked at anew in each step
  const auto serve = [&](Home& home) {
    served = home.served = true;
    if (one_each) home.share = 0;
  };
  blocked_ = 0;
  turns_.begin_walk();
  while (!(served && budget.tokens == 0) && !(one_each && std::ranges::all_of(homes_, &Home::served))) {
    Sequence* const running = next_prompt(one_each);
    Sequence* const waiting = admitting && !free_slots_.empty() ? turns_.next(now()) : nullptr;
    if (!running && !waiting) break;
    if (waiting && (!running || goes_before(*waiting, *running))) {
      Admission admission = Admission::no_memory;
      try_for(*waiting, &batch, [&] { admission = admit(batch, budget, *waiting); });
      if (admission == Admission::admitted) {
        serve(homes_[waiting->home]);
        continue;
      }
      if (admission == Admission::no_budget) homes_[waiting->home].closed = true, starved |= !served;
      if (admission == Admission::blocked) blocked_ = static_cast<uint64_t>(waiting->id);
      if (admission == Admission::blocked || budget.tokens == 0) admitting = false;
      if (admission == Admission::shared) turns_.skip_request(*waiting);
      else turns_.skip(*waiting);
      const int most = admission == Admission::level ? options_.max_batch_size : kMostPassedOver;
      if (++passed_over >= most) admitting = false;
    } else {
      Home& home = homes_[running->home];
      Admission admission = Admission::no_memory;
      try_for(*running, &batch, [&] { admission = add_prompt_chunk(batch, budget, *running); });
      if (admission == Admission::no_memory) continue;  // next_prompt() passes it from now on
      if (admission == Admission::admitted) serve(home);
      else home.closed = true, starved |= !home.served && (admission == Admission::blocked || !served);
      turns_.skip(*running);
    }
  }
  return !starved;
}

// The running prompt that goes on first. Those of a client do so by rank; of several clients the one whose prompts have
// had a turn longest ago.
Sequence* Scheduler::next_prompt(bool one_each) const {
  Sequence* best = nullptr;
  for (Sequence* s : running_) {
    if (!s->ready_to_prefill() || s->last_step == step_ || s->walk == turns_.walk()) continue;
    if (one_each && homes_[s->home].served) continue;
    if (turns_.clients() == 1) return s;
    if (best == nullptr ||
        (s->queue->client != best->queue->client && turns_.claim(*s, now()) > turns_.claim(*best, now())))
      best = s;
  }
  return best;
}

bool Scheduler::goes_before(const Sequence& waiting, const Sequence& running) const {
  const ClientQueue &a = *waiting.queue->client, &b = *running.queue->client;
  if (&a == &b) return waiting.outranks(running);
  const int64_t first = turns_.claim(waiting, now()), second = turns_.claim(running, now());
  return first != second ? first > second : a.running < b.running;
}

Scheduler::Admission Scheduler::add_prompt_chunk(StepBatch& batch, Budget& budget, Sequence& sequence) {
  int tokens = chunk_size(sequence, budget);
  if (tokens == 0) return Admission::no_budget;
  tokens = reserve_chunk(sequence, tokens);
  if (tokens == 0) {
    tokens = smallest_chunk(sequence);
    if (!reserve_or_preempt(sequence, reach(sequence, sequence.scheduled + tokens, 0))) return Admission::blocked;
  }
  add_prompt_row(batch, budget, sequence, tokens);
  return Admission::admitted;
}

// Its blocks are reserved.
void Scheduler::add_prompt_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens) {
  const int end = sequence.scheduled + tokens;
  turns_.had_turn(sequence, now());
  int propose = proposals(sequence, end >= sequence.known() && sequence.max_outputs > 0, false);
  if (propose > options_.draft_ahead && !cache_of(sequence).reserve(sequence.cache, reach(sequence, end, propose)))
    propose = options_.draft_ahead;
  add_row(batch, budget, sequence, tokens, 0, propose);
}

// What is known of its admission before a home is asked.
Scheduler::Admission Scheduler::may_admit(const Sequence& sequence) const {
  if (sequence.given_up) return Admission::no_memory;
  if (owes_masks(sequence)) return Admission::owes;
  if (sequence.in_flight > 0) return Admission::blocked;  // preempted, and a token of it is still to come
  if (sequence.shared_block >= 0 && is_being_computed(sequence, sequence.shared_block, cache_limit(sequence)))
    return Admission::shared;
  return sequence.retry_version == cache_version() ? Admission::blocked : Admission::admitted;
}

// A home that turns out to have no room is closed, and the sequence is placed anew.
Scheduler::Admission Scheduler::admit(StepBatch& batch, Budget& budget, Sequence& sequence) {
  if (budget.tokens == 0) return Admission::no_budget;
  if (const Admission known = may_admit(sequence); known != Admission::admitted) return known;
  const bool all_open = std::ranges::none_of(homes_, &Home::closed);
  Admission result = Admission::blocked;
  while (result == Admission::blocked && place(sequence)) {
    result = admit_at_home(batch, budget, sequence);
    homes_[sequence.home].closed |= result == Admission::blocked;
  }
  if (result != Admission::shared) sequence.shared_block = -1;
  if (result == Admission::blocked && all_open) sequence.retry_version = cache_version();
  return result;
}

// Positions that the cache may serve. The last token is computed in any case, for its logits; so are all rows that were
// asked for.
int Scheduler::cache_limit(const Sequence& sequence) const {
  if (sequence.whole) return 0;
  return sequence.wants_rows() ? std::min(sequence.known() - 1, sequence.rows_done) : sequence.known() - 1;
}

Scheduler::Admission Scheduler::admit_at_home(StepBatch& batch, Budget& budget, Sequence& sequence) {
  if (homes_[sequence.home].share <= 0) return Admission::level;
  CacheManager& cache = cache_of(sequence);
  const size_t copies = batch.copies.size();
  const int limit = cache_limit(sequence);
  sequence.scheduled = cache.acquire_prefix(sequence.cache, sequence.tokens, limit);
  if (const int next = sequence.cache.published; is_being_computed(sequence, next, limit)) {
    sequence.shared_block = next;
    return give_back(batch, sequence, copies, Admission::shared);
  }
  if (cache.missing_bytes(sequence.cache, reach(sequence, sequence.known(), 0)) > cache.available_bytes()) {
    return give_back(batch, sequence, copies, Admission::blocked);
  }
  sequence.scheduled += cache.copy_partial_block(sequence.cache, sequence.tokens, limit, batch.copies);
  for (size_t i = copies; i < batch.copies.size(); ++i) batch.copies[i].home = sequence.home;
  const int cached = sequence.scheduled;
  sequence.scheduled = cache.first_query(cached);
  int tokens = chunk_size(sequence, budget);
  if (tokens == 0) return give_back(batch, sequence, copies, Admission::no_budget);
  // All of the prompt in full groups at once: prompts that are half computed and stuck would help nobody.
  if (!cache.reserve_full_groups(sequence.cache, reach(sequence, sequence.known(), 0)))
    return give_back(batch, sequence, copies, Admission::blocked);
  tokens = reserve_chunk(sequence, tokens);
  if (tokens == 0) return give_back(batch, sequence, copies, Admission::blocked);
  open_slot(batch, sequence, cached);
  add_prompt_row(batch, budget, sequence, tokens);
  return Admission::admitted;
}

Scheduler::Admission Scheduler::give_back(StepBatch& batch, Sequence& sequence, size_t copies, Admission why) {
  cache_of(sequence).undo_acquire(sequence.cache);
  batch.copies.resize(copies);
  sequence.scheduled = 0;
  return why;
}

// A running sequence of the same home is about to write `block`, the very one that this one lacks: then it is better to
// wait for it. (If it is of lower priority, it may be held up longer than this one should be.)
bool Scheduler::is_being_computed(const Sequence& sequence, int block, int limit) const {
  const CacheOptions& options = cache_of(sequence).options();
  const auto next = static_cast<size_t>(block), tokens_per_block = static_cast<size_t>(options.tokens_per_block);
  const size_t useful = options.partial_reuse ? next * tokens_per_block + 1 : (next + 1) * tokens_per_block;
  if (next >= sequence.cache.keys.size() || static_cast<int64_t>(useful) > limit) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const Sequence* other) {
    return other->home == sequence.home && other->priority >= sequence.priority &&
           other->cache.published == static_cast<int>(next) && other->cache.keys.size() > next &&
           other->cache.keys[next] == sequence.cache.keys[next];
  });
}

// A prompt that must not be split needs this much of a step (only logit rows may split it, see
// SchedulerOptions::max_logit_rows), and so does the span that the next token begins or lies in, if it must not be
// split.
int Scheduler::smallest_chunk(const Sequence& sequence) const {
  int smallest =
      std::max(1, std::min(sequence.span_end(sequence.scheduled + 1), sequence.known()) - sequence.scheduled);
  if (smallest > 1) return smallest;
  if (sequence.whole || !options_.chunked_prefill) smallest = std::max(1, sequence.prompt_tokens - sequence.scheduled);
  if (!sequence.wants_rows() || sequence.whole) return smallest;
  if (sequence.scheduled < sequence.rows_done) return std::min(smallest, sequence.rows_done - sequence.scheduled);
  return std::min(smallest, options_.max_logit_rows);
}

// How many of the known tokens the step can take, 0 if too few.
int Scheduler::chunk_size(const Sequence& sequence, const Budget& budget) const {
  const int smallest = smallest_chunk(sequence), first = sequence.scheduled;
  int tokens = std::min(sequence.remaining(), budget.tokens);
  // The first one may exceed what it is allowed if it may not be split.
  const auto keep_to = [&](int allowed, bool has_prompt_row) {
    if (tokens > allowed) tokens = allowed >= smallest || has_prompt_row ? allowed : std::min(tokens, smallest);
  };
  const Home& home = homes_[sequence.home];
  keep_to(budget.prompt_tokens, budget.has_prompt_row);
  keep_to(home.share, home.has_prompt_row);
  if (sequence.wants_rows() && first < sequence.rows_done) {  // these rows came out before a preemption
    tokens = std::min(tokens, sequence.rows_done - first);
  } else if (sequence.wants_rows() && first < sequence.rows_end) {
    tokens = std::min({tokens, budget.logit_rows, sequence.prompt_tokens - first});
  } else if (tokens == sequence.remaining() && budget.logit_rows == 0) {
    --tokens;  // all but the token whose logits are wanted
  }
  if (tokens < sequence.remaining()) tokens = sequence.span_begin(first + tokens) - first;
  return tokens >= smallest ? tokens : 0;
}

// Blocks for as many of the tokens as fit; returns how many (0: fewer than the smallest chunk, nothing is reserved).
int Scheduler::reserve_chunk(Sequence& sequence, int tokens) {
  CacheManager& cache = cache_of(sequence);
  const int first = sequence.scheduled, smallest = smallest_chunk(sequence), block = cache.options().tokens_per_block;
  for (int end = first + tokens; end - first >= smallest; end = sequence.span_begin((end - 1) / block * block)) {
    if (cache.reserve(sequence.cache, reach(sequence, end, 0))) return end - first;
  }
  return cache.reserve(sequence.cache, reach(sequence, first + smallest, 0)) ? smallest : 0;
}

bool Scheduler::reserve_or_preempt(Sequence& sequence, int end) {
  while (!cache_of(sequence).reserve(sequence.cache, end)) {
    const auto victim = std::find_if(running_.rbegin(), running_.rend(), [&](const Sequence* s) {
      return s->home == sequence.home && s->last_step != step_ && may_preempt(sequence, *s);
    });
    if (victim == running_.rend()) return false;
    preempt(**victim);
  }
  return true;
}

// The order of places, but for priorities: what is of higher priority yields to a higher rank alone.
bool Scheduler::may_preempt(const Sequence& sequence, const Sequence& victim) const {
  return by_place(&sequence, &victim) && (victim.priority <= sequence.priority || sequence.outranks(victim));
}

// Steps in flight still read and write its blocks; the workers do so before they execute the step that gives them to
// another. The slot is not closed before they are finished.
void Scheduler::preempt(Sequence& sequence) noexcept {
  closes_after_ = std::max(closes_after_, sequence.last_step);
  cache_of(sequence).release(sequence.cache);
  close_slot(sequence);
  ++sequence.epoch;
  sequence.scheduled = sequence.computed = sequence.slack = sequence.promised = 0;
  stop_running(sequence);
  enqueue(sequence);
  ++metrics_.preemptions;
}

// `cached`: tokens that came from the cache. What may run out of memory comes first.
void Scheduler::open_slot(StepBatch& batch, Sequence& sequence, int cached) {
  SlotOpen open;
  open.prompt = sequence.prompt;
  open.output.assign(sequence.tokens.begin() + sequence.prompt_tokens, sequence.tokens.end());
  open.token_types = sequence.token_types;
  open.slot = free_slots_.back();
  open.sampling = sequence.sampling, open.seed = sequence.seed, open.media = sequence.media;
  open.max_outputs = sequence.max_outputs;
  if (sequence.adapter) open.adapter = sequence.adapter->number;
  open.salt = sequence.cache.root.words;
  open.home = sequence.home;
  batch.opens.push_back(std::move(open));
  sequence.computed = sequence.scheduled;
  if (!sequence.admitted_before) {
    sequence.admitted_before = true;
    sequence.cached_tokens = std::min(cached, sequence.prompt_tokens);
    metrics_.prompt_tokens += sequence.prompt_tokens;
    metrics_.cached_tokens += sequence.cached_tokens;
  } else {
    metrics_.resumed_cached_tokens += cached;
  }
  turns_.erase(sequence);
  sequence.state = Sequence::State::running;
  sequence.place = sequence.queue->client->running;  // behind the others, until order_running() looks closer
  if (!sequence.queue->started) starts_[started_requests_++ % starts_.size()] = now_us_;
  turns_.started(sequence, now());
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, by_place), &sequence);
  order_changed_ = true;
  sequence.admitted_step = now(), sequence.decodes_since = -1;
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[sequence.slot] = &sequence;
}

void Scheduler::add_row(StepBatch& batch, Budget& budget, Sequence& sequence, int tokens, int drafts, int propose) {
  const int first = sequence.scheduled, end = first + tokens;
  StepBatch::Row row;
  row.slot = sequence.slot, row.first = first, row.tokens = tokens;
  row.drafts = drafts, row.propose = propose;
  row.source = first < sequence.known() ? TokenSource::host : TokenSource::slot;
  const bool last = end >= sequence.known();
  const bool all_rows = sequence.wants_rows() && first >= sequence.rows_done && first < sequence.rows_end;
  row.sample = last && sequence.max_outputs > 0;
  if (all_rows) row.logits = LogitRows::all;
  else if (row.sample) row.logits = LogitRows::last;
  else if (last && sequence.task == Task::score)
    row.logits = sequence.score_rows == LogitRows::first ? LogitRows::first : LogitRows::last;
  if (sequence.task == Task::score) {
    row.context_logits = row.logits != LogitRows::none;
  } else {
    row.prompt_logprobs = all_rows && sequence.sampling->prompt_logprobs >= 0;
    row.context_logits = all_rows && sequence.sampling->context_logits;
    row.generation_logits = row.sample && sequence.sampling->generation_logits;
  }
  // What the slot has of its last step. If that is committed, the step waits for nothing.
  if (row.source == TokenSource::slot || drafts > 0) batch.after = std::max(batch.after, sequence.last_step);
  cache_of(sequence).send_entries(sequence.cache, sequence.slot, first,
                                  reach(sequence, end + sequence.slack + drafts, propose), batch.entries);
  std::vector<RowRecord>& rows = filling().rows;
  const auto behind =
      std::ranges::upper_bound(rows, sequence.home, {}, [](const RowRecord& r) { return r.sequence->home; });
  rows.insert(behind, {&sequence, sequence.epoch, row, all_rows, last, sequence.remaining() <= 1});
  Home& home = homes_[sequence.home];
  home.load += tokens + drafts;
  budget.tokens -= tokens + drafts;
  budget.logit_rows -= drafts + (row.logits == LogitRows::all ? tokens : row.logits != LogitRows::none);
  if (tokens > 1 || first < sequence.prompt_tokens) {
    budget.prompt_tokens -= tokens, budget.has_prompt_row = true;
    home.share -= tokens, home.has_prompt_row = true;
    home.prompt_tokens += static_cast<uint64_t>(tokens);
  }
  sequence.scheduled = end;
  sequence.slack += drafts;
  sequence.promised = row.sample ? std::max(0, propose) : 0;
  sequence.pending_samples += row.sample;
  ++sequence.in_flight;
  sequence.last_step = step_;
}

// The rows in their order, with what goes by it: tokens, and the numbers of masks.
void Scheduler::finish_batch(StepBatch& batch) {
  int masks = 0;
  for (RowRecord& record : filling().rows) {
    StepBatch::Row& row = record.row;
    const std::vector<int32_t>& tokens = record.sequence->tokens;
    if (row.source == TokenSource::host)
      batch.tokens.insert(batch.tokens.end(), tokens.begin() + row.first, tokens.begin() + row.first + row.tokens);
    if (row.sample && record.sequence->guided) row.guide = std::exchange(masks, masks + 1 + row.drafts);
    batch.rows.push_back(row);
  }
  batch.closes.swap(closes_);
  batch.after = std::max(batch.after, std::exchange(closes_after_, 0));
  for (size_t h = 0; h < homes_.size(); ++h) {
    const size_t first = batch.releases.size();
    homes_[h].cache.take_releases(batch.releases);
    for (size_t i = first; i < batch.releases.size(); ++i) batch.releases[i].home = static_cast<int>(h);
  }
}

}  // namespace weft
