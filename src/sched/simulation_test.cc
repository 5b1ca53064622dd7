// The scheduler and the cache manager under random load: many configurations, every kind of sequence, tiny budgets,
// cancels, failing rows, and a worker without a model that knows what each block must hold (fake_worker.h). After every
// step the books are checked; at the end every sequence must have had exactly the answer of a run by itself, and
// nothing may be left over.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <new>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "base/count_allocations.h"
#include "sched/driver.h"

namespace weft {
namespace {

constexpr int kConfigurations = 1000;
constexpr int kActionsEach = 400;  // a schedule or a commit each, before the last sequences are let to their end

struct Coverage {
  uint64_t steps = 0, preemptions = 0, cached = 0, resumed_cached = 0, copies = 0, releases = 0, discarded = 0,
           finished = 0, drafted = 0, accepted = 0, left_out = 0;
  uint64_t shared = 0, waits = 0, past = 0;  // steps begun beside others; that wait for them; for finished ones alone
  uint64_t yields = 0;                       // slots and blocks for another's turn
  uint64_t moved = 0, levelled = 0;          // sequences that went on at another home; steps that several homes share
  uint64_t out_of_memory = 0;                // sequences that ended, or were not added
  uint64_t cancelled = 0, failed = 0, slot_rows = 0, read = 0, refused = 0, entries = 0, table_blocks = 0, replaced = 0;
};

// What a sequence asked for and what has come out of it.
struct Expectation {
  NewSequence request;
  int64_t rank = 0;
  int home = -1;  // of its last admission
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, prompt_logprobs, outputs;
};

class Simulation {
 public:
  // `faults`: how often a call of the scheduler finds no memory.
  Simulation(uint32_t seed, int homes, int stages, double faults = 0) : random_(seed), faults_(faults) {
    configure(homes, stages);
    worker_->late_releases = faults > 0;
  }

  void run(Coverage& coverage) {
    for (int step = 0; step < kActionsEach && !::testing::Test::HasFailure(); ++step) {
      while (chance(arrival_) && static_cast<int>(alive_.size()) < most_alive_) add();
      if (chance(0.03)) cancel();
      advance(chance(0.5));
    }
    for (int step = 0; !scheduler_->idle() && !::testing::Test::HasFailure(); ++step) {
      ASSERT_LT(step, 200000) << "the sequences do not end";
      advance(chance(0.5));
    }
    if (::testing::Test::HasFailure()) return;
    check_end();
    report(coverage);
  }

 private:
  int between(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<int>(values.size()) - 1)];
  }

  // The call, which may find no memory at one of its first allocations, or from there on.
  template <class Call>
  auto call(Call call) {
    const uint64_t n = faults_ > 0 && chance(faults_) ? static_cast<uint64_t>(between(1, 12)) : 0;
    const bool on = n > 0 && chance(0.3);
    const FailingAllocations failing(n, on);
    return call();
  }

  void configure(int homes, int stages);
  void add();
  NewSequence random_sequence();
  void cancel();
  void advance(bool commit_first);
  void commit();
  void take(const SequenceOutput& output);
  void drop_failed();
  void note_tables();
  void note_homes();
  void check_tables();
  void check_waits();
  void check_step();
  void check_starvation();
  void check_end();
  void report(Coverage& coverage) const;

  using Entry = std::tuple<int, int, std::array<uint64_t, 4>>;  // of the indices: home, group, key

  std::mt19937 random_;
  const double faults_;
  CacheOptions cache_options_;
  SchedulerOptions options_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeWorker> worker_;
  StepBatch batch_;
  std::deque<std::vector<TableEntry>> tables_;    // of each queued step, what its rows read and write
  std::deque<std::vector<SequenceId>> sampling_;  // of each step in flight, whom it samples for
  std::map<Slot, int> slot_homes_;
  std::vector<std::vector<int32_t>> stems_;  // prompts share these beginnings
  std::map<uint64_t, Expectation> alive_;
  std::set<Entry> replayed_;  // from the events
  double arrival_ = 0.3, failure_ = 0;
  int most_alive_ = 0, clients_ = 0;
  int64_t now_us_ = 0;
  uint64_t events_seen_ = 0;
  std::pair<int64_t, uint64_t> first_in_rank_{};
  int steps_as_first_ = 0, longest_prompt_ = 0;
  Coverage counts_;
};

void Simulation::configure(int homes, int stages) {
  using Kind = CacheSpec::Kind;
  const int groups = one_of({0, 1, 1, 1, 2, 2, 3});
  cache_options_.tokens_per_block = one_of({1, 2, 3, 4, 8, 16});
  for (int g = 0; g < groups; ++g) {
    CacheGroup group;
    group.kind = one_of({Kind::full, Kind::full, Kind::latent, Kind::window, Kind::window, Kind::chunk});
    group.span = between(1, 40);
    group.block_bytes = between(1, 5) * cache_options_.tokens_per_block;
    cache_options_.groups.push_back(group);
  }
  cache_options_.block_reuse = chance(0.8);
  cache_options_.partial_reuse = chance(0.7);
  cache_options_.event_capacity = 1000000;
  options_.max_batch_size = between(1, 8);
  options_.max_num_tokens = one_of({1, 2, 5, 16, 17, 48, 100});
  options_.max_logit_rows = one_of({1, 2, 4, 9, 30});
  options_.max_seq_len = between(8, 110);
  options_.chunked_prefill = chance(0.75);
  options_.overlap = one_of({1, 2, 2, 3});
  options_.aging_steps = one_of({0, 1, 20, 64}), options_.turn_steps = one_of({0, 20, 1024});
  if (chance(0.7)) {
    options_.speculation.method = DraftMethod::ngram;
    options_.speculation.num_tokens = one_of({0, 1, 2, 3, 5, 12});
    options_.draft_ahead = groups > 0 ? one_of({0, 0, 1, 2}) : 0;
    cache_options_.lookahead = options_.draft_ahead;
    cache_options_.recomputed = options_.draft_ahead > 0 && chance(0.5);
  }
  if (homes > 1) {
    options_.homes = homes, options_.max_batch_size = between(1, 3 * homes + 2);
    options_.balance_wait_us = one_of({0, 0, 30, 200});
  }
  if (stages > 1) options_.stages = stages, options_.overlap = one_of({1, stages, stages + 1, stages + 1, stages + 2});
  longest_prompt_ = std::min(options_.max_seq_len, options_.chunked_prefill ? 80 : options_.max_num_tokens);
  cache_options_.budget_bytes = int64_t{1} << 30;
  const int64_t one_sequence = CacheManager::create(cache_options_)->bytes_for(options_.max_seq_len, longest_prompt_);
  const double sequences = one_of({0.4, 1.0, 1.1, 1.5, 2.5, 20.0});
  cache_options_.budget_bytes = std::max<int64_t>(16, static_cast<int64_t>(one_sequence * sequences));
  for (const CacheGroup& group : cache_options_.groups) {  // one token at least
    cache_options_.budget_bytes =
        std::max(cache_options_.budget_bytes, static_cast<int64_t>(group.block_bytes * groups * 3));
  }
  scheduler_ = std::make_unique<Scheduler>(make_scheduler(options_, cache_options_));
  worker_ = std::make_unique<FakeWorker>(cache_options_, options_.max_batch_size, options_.homes, options_.stages);
  worker_->on_begin = [this](const StepBatch&) { check_tables(); };
  if (stages > 1) worker_->eager = one_of({0.0, 0.5, 1.0});
  worker_->right_drafts = one_of({0.0, 0.3, 0.7, 0.95, 1.0});
  worker_->ahead = options_.draft_ahead;
  arrival_ = one_of({0.05, 0.3, 0.6});
  most_alive_ = options_.max_batch_size + between(1, 8);
  clients_ = one_of({0, 0, 2, 5});
  failure_ = one_of({0.0, 0.0, 0.003});
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t>& stem = stems_.emplace_back();
    for (int t = 0; t < 90; ++t) stem.push_back(between(0, kVocabulary - 1));
  }
}

NewSequence Simulation::random_sequence() {
  NewSequence s;
  auto sampling = std::make_shared<SamplingParams>();
  const std::vector<int32_t>& stem = stems_[between(0, static_cast<int>(stems_.size()) - 1)];
  std::vector<int32_t> prompt(stem.begin(), stem.begin() + between(1, std::min(90, longest_prompt_)));
  while (static_cast<int>(prompt.size()) < longest_prompt_ && chance(0.5))
    prompt.push_back(between(0, kVocabulary - 1));
  s.prompt = std::move(prompt);
  const int salt = chance(0.15);
  s.cache.salt = salt ? "tenant b" : "tenant a";
  sampling->top_p_reset_id = salt;
  s.seed = between(1, 2);
  s.prompt_results = chance(0.8);
  sampling->max_tokens = chance(0.1) ? between(0, 1) : between(1, 50);
  sampling->logprobs = chance(0.3) ? 0 : -1;
  sampling->prompt_logprobs = chance(0.1) ? 0 : -1;
  if (chance(0.3)) sampling->eos_token_ids = {0};
  sampling->ignore_eos = chance(0.3);
  if (chance(0.2)) sampling->stop_token_ids = {between(0, kVocabulary - 1)};
  if (chance(0.15) && sampling->max_tokens > 1) {  // goes on from tokens generated elsewhere
    for (int i = between(1, sampling->max_tokens - 1); i > 0; --i) s.output.push_back(between(0, kVocabulary - 1));
  }
  if (chance(0.2)) sampling->max_draft_tokens = between(0, 3);
  sampling->context_logits = chance(0.1), sampling->generation_logits = chance(0.1);
  s.priority = chance(0.2) ? between(0, 2) : 1;
  if (clients_ > 0) {
    s.client = static_cast<uint64_t>(between(0, clients_));
    s.request = static_cast<uint64_t>(between(0, 6)) * 16 + s.client;
  }
  if (chance(0.1)) s.arrival_step = std::max<int64_t>(0, static_cast<int64_t>(scheduler_->steps()) - between(0, 60));
  s.guided = chance(0.2);
  if (chance(0.1)) {
    s.task = Task::score;
    s.output.clear();
    s.score_rows = one_of({LogitRows::all, LogitRows::last});
  }
  s.whole = chance(0.05);
  if (chance(0.2)) s.cache.retention.ranges = {{0, between(1, 20), between(0, 100), between(0, 3) * 50}};
  if (chance(0.1)) s.cache.retention.decode_priority = between(0, 100);
  s.sampling = std::move(sampling);
  return s;
}

void Simulation::add() {
  NewSequence sequence = random_sequence();
  Expectation expectation;
  expectation.request = sequence;
  const auto added = [&]() -> std::optional<Result<SequenceId>> {
    try {
      return call([&] { return scheduler_->add(std::move(sequence)); });
    } catch (const std::bad_alloc&) {
      return std::nullopt;
    }
  }();
  if (!added) {
    ++counts_.out_of_memory;
    return;
  }
  const Result<SequenceId>& id = *added;
  if (!id.ok()) {
    ++counts_.refused;
    EXPECT_EQ(id.error().code(), Code::invalid_argument);
    return;
  }
  const int64_t arrived = expectation.request.arrival_step, priority = expectation.request.priority;
  const int64_t steps = arrived >= 0 ? arrived : static_cast<int64_t>(scheduler_->steps());
  expectation.rank =
      options_.aging_steps == 0 ? -priority * (int64_t{1} << 31) : steps - priority * options_.aging_steps;
  alive_.emplace(static_cast<uint64_t>(*id), std::move(expectation));
}

void Simulation::cancel() {
  if (alive_.empty()) return;
  auto chosen = std::next(alive_.begin(), between(0, static_cast<int>(alive_.size()) - 1));
  EXPECT_TRUE(scheduler_->finish(SequenceId{chosen->first}));
  EXPECT_FALSE(scheduler_->finish(SequenceId{chosen->first}));
  alive_.erase(chosen);
  ++counts_.cancelled;
}

void Simulation::advance(bool commit_first) {
  if (commit_first && worker_->queued() > 0) {
    commit();
  } else if (const int64_t now_us = now_us_ += between(0, 20);
             call([&] { return scheduler_->schedule(batch_, now_us); })) {
    if (chance(0.02)) scheduler_->set_prefill_budget(between(1, 50));
    counts_.copies += batch_.copies.size(), counts_.releases += batch_.releases.size();
    EXPECT_LE(batch_.total_tokens(), options_.max_num_tokens);
    int logit_rows = 0, guides = 0;
    for (const StepBatch::Row& row : batch_.rows) {
      logit_rows += row.drafts + (row.logits == LogitRows::all ? row.tokens : row.logits == LogitRows::last);
      counts_.slot_rows += row.source == TokenSource::slot;
      if (row.guide >= 0) {
        EXPECT_EQ(row.guide, guides);
        guides += 1 + row.drafts;
      }
    }
    EXPECT_LE(logit_rows, options_.max_logit_rows);
    check_waits();
    note_tables();
    note_homes();
    worker_->submit(batch_);
    ++counts_.steps;
    drop_failed();
  } else if (!scheduler_->failed().empty()) {
    drop_failed();
  } else if (worker_->queued() > 0) {
    commit();
  }
  check_step();
}

// Sequences that found no memory when the step was filled.
void Simulation::drop_failed() {
  for (const SequenceId id : scheduler_->failed()) {
    EXPECT_EQ(alive_.erase(static_cast<uint64_t>(id)), 1u);
    EXPECT_FALSE(scheduler_->finish(id));
    ++counts_.out_of_memory;
  }
}

// Steps wait for earlier ones, and for one that is still in the stages only where nothing else can be done. However
// many are in flight, two of them sample for a sequence at most.
void Simulation::check_waits() {
  EXPECT_LT(batch_.after, batch_.step);
  std::vector<SequenceId>& sampling = sampling_.emplace_back();
  for (const StepBatch::Row& row : batch_.rows)
    if (row.sample) sampling.push_back(scheduler_->sequence_in_slot(row.slot));
  for (SequenceId id : sampling) {
    const auto rows =
        std::ranges::count_if(sampling_, [&](const auto& step) { return std::ranges::find(step, id) != step.end(); });
    if (options_.overlap <= options_.stages + 1) {
      EXPECT_LE(rows, 2);
    }
  }
  counts_.waits += batch_.after + static_cast<uint64_t>(options_.stages) > batch_.step;
  counts_.past += batch_.after > 0 && batch_.after + static_cast<uint64_t>(options_.stages) <= batch_.step;
}

// The blocks of the step's rows as the cache manager has them now.
void Simulation::note_tables() {
  std::vector<TableEntry>& truth = tables_.emplace_back();
  const int size = cache_options_.tokens_per_block;
  for (const StepBatch::Row& row : batch_.rows) {
    for (int g = 0; g < static_cast<int>(cache_options_.groups.size()); ++g) {
      const CacheSequence::Table& table = scheduler_->cache_in_slot(row.slot).tables[g];
      const int first = FakeWorker::first_key(cache_options_.groups[g], row.first) / size;
      for (int number = first; number * size < row.first + row.tokens; ++number)
        truth.push_back({g, row.slot, number, table.blocks[table.head + (number - table.first_block)]});
    }
  }
  counts_.entries += batch_.entries.size(), counts_.table_blocks += truth.size();
  std::set<Slot> opened;
  for (const SlotOpen& open : batch_.opens) opened.insert(open.slot);
  for (const TableEntry& entry : batch_.entries)
    counts_.replaced += worker_->queued() == 0 && !opened.contains(entry.slot) &&
                        worker_->table_entry(entry.group, entry.slot, entry.number) >= 0;
}

void Simulation::note_homes() {
  for (const SlotOpen& open : batch_.opens) {
    const auto e = alive_.find(static_cast<uint64_t>(scheduler_->sequence_in_slot(open.slot)));
    ASSERT_NE(e, alive_.end());
    counts_.moved += e->second.home >= 0 && e->second.home != open.home;
    e->second.home = slot_homes_[open.slot] = open.home;
  }
  std::set<int> busy;
  for (const StepBatch::Row& row : batch_.rows) busy.insert(slot_homes_[row.slot]);
  counts_.levelled += busy.size() > 1;
}

// The worker's tables, changed entry by entry, against them.
void Simulation::check_tables() {
  for (const TableEntry& entry : tables_.front())
    EXPECT_EQ(worker_->table_entry(entry.group, entry.slot, entry.number), entry.block)
        << "group " << entry.group << " slot " << entry.slot << " number " << entry.number;
  tables_.pop_front();
}

void Simulation::commit() {
  StepResult result = worker_->execute(failure_, random_);
  sampling_.pop_front();
  for (const SequenceOutput& output : call([&] { return scheduler_->commit(result); })) take(output);
  check_starvation();
}

void Simulation::take(const SequenceOutput& output) {
  const auto found = alive_.find(static_cast<uint64_t>(output.id));
  ASSERT_NE(found, alive_.end()) << "output for a sequence that has ended";
  Expectation& e = found->second;
  if (e.request.guided) scheduler_->charge_masks(output.id, one_of({0.0, 0.0001, 0.002, 0.02}));
  e.tokens.insert(e.tokens.end(), output.tokens.begin(), output.tokens.end());
  e.outputs.insert(e.outputs.end(), output.outputs.begin(), output.outputs.end());
  for (const auto& entry : output.logprobs) e.logprobs.push_back(entry[0].logprob);
  for (const auto& entry : output.prompt_logprobs) {
    EXPECT_EQ(entry[0].token, e.request.prompt[e.prompt_logprobs.size() + 1]);
    e.prompt_logprobs.push_back(entry[0].logprob);
  }
  EXPECT_LT(output.cached_tokens, output.prompt_tokens + static_cast<int>(e.request.output.size()));
  EXPECT_LE(output.cached_tokens, output.prompt_tokens);
  if (output.reason == FinishReason::none) return;
  const Answer right = answer_alone(e.request, options_.max_seq_len);
  if (output.reason == FinishReason::error) {
    ++(output.error_code == Code::resource_exhausted ? counts_.out_of_memory : counts_.failed);
    ASSERT_LE(e.tokens.size(), right.tokens.size());
    EXPECT_TRUE(std::equal(e.tokens.begin(), e.tokens.end(), right.tokens.begin()));
  } else {
    EXPECT_EQ(output.reason, right.reason);
    EXPECT_EQ(e.tokens, right.tokens);
    if (e.request.sampling->logprobs >= 0 && e.request.task == Task::generate) {
      EXPECT_EQ(e.logprobs, right.logprobs);
    }
    std::vector<float> rows = right.prompt_rows;
    if (e.request.task == Task::score && e.request.score_rows == LogitRows::last) rows = {rows.back()};
    if (e.request.task == Task::score) {
      EXPECT_EQ(e.outputs, rows);
    }
    if (e.request.task == Task::generate) {
      std::vector<float> logits;
      if (e.request.prompt_results && e.request.sampling->context_logits) logits = rows;
      if (e.request.sampling->generation_logits)
        logits.insert(logits.end(), right.logprobs.begin(), right.logprobs.end());
      EXPECT_EQ(e.outputs, logits);
    }
    rows.pop_back();
    if (e.request.task == Task::generate && e.request.prompt_results && e.request.sampling->prompt_logprobs >= 0) {
      EXPECT_EQ(e.prompt_logprobs, rows);
    }
    if (output.reason == FinishReason::stop && !right.tokens.empty()) {
      EXPECT_EQ(output.stop_id, right.tokens.back());
    }
  }
  ++counts_.finished;
  alive_.erase(found);
}

void Simulation::check_step() {
  scheduler_->check_integrity();
  for (const std::string& fault : worker_->faults) ADD_FAILURE() << fault;
  const auto [events, next_event] = scheduler_->take_cache_events();
  bool lost = false;
  for (const CacheEvent& event : events) {
    if (faults_ > 0 && event.id > events_seen_) lost = true, events_seen_ = event.id;
    EXPECT_EQ(event.id, events_seen_++);
    if (lost) continue;
    const Entry entry{event.home, event.group, event.key.words};
    const bool stored = event.kind == CacheEvent::Kind::stored;
    EXPECT_TRUE(stored ? replayed_.insert(entry).second : replayed_.erase(entry) == 1);
  }
  if (faults_ > 0 && next_event > events_seen_) lost = true, events_seen_ = next_event;
  EXPECT_EQ(next_event, events_seen_);
  if (!lost && !chance(0.2)) return;  // it costs more than the rest
  std::set<Entry> index;
  for (int home = 0; home < scheduler_->homes(); ++home)
    for (const auto& [group, key] : scheduler_->cache(home).index()) index.emplace(home, group, key.words);
  if (lost) replayed_ = index;
  EXPECT_EQ(replayed_, index);
}

// Whoever is first in rank must end within the steps that all slots, one after the other, need for their longest
// sequence (twice, for prompts and decodes take turns when a step is too small for both).
void Simulation::check_starvation() {
  if (alive_.empty()) return;
  std::pair<int64_t, uint64_t> first{INT64_MAX, 0};
  for (const auto& [id, e] : alive_) first = std::min(first, std::pair(e.rank, id));
  steps_as_first_ = first == first_in_rank_ ? steps_as_first_ + 1 : 0;
  first_in_rank_ = first;
  const int rows = std::min({options_.max_batch_size, options_.max_num_tokens, options_.max_logit_rows});
  const int turns = (options_.max_batch_size + rows - 1) / rows;
  const int held_back = static_cast<int>(options_.balance_wait_us);  // the clock may stand still, but not for ever
  // Clients and requests have turns in between. A mask takes up to two steps' budget, and all may have such masks.
  const int others = (clients_ > 0 ? most_alive_ : 1) * (1 + 2 * options_.max_batch_size);
  EXPECT_LE(steps_as_first_, 2 * (turns + options_.stages) * (options_.max_seq_len + 2) * others + held_back)
      << "sequence " << first.second << " starves";
}

void Simulation::check_end() {
  EXPECT_TRUE(alive_.empty());
  EXPECT_FALSE(scheduler_->schedule(batch_));
  for (int home = 0; home < scheduler_->homes(); ++home) {
    CacheManager& cache = scheduler_->cache(home);
    EXPECT_EQ(cache.available_bytes(), cache_options_.budget_bytes);
    cache.drop_cached();
    scheduler_->check_integrity();
    for (int g = 0; g < cache.groups(); ++g) {
      const CacheGauges gauges = cache.gauges(g);
      EXPECT_EQ(gauges.used, 0);
      EXPECT_EQ(gauges.cached, 0);
      EXPECT_EQ(gauges.evictable, 0);
      EXPECT_EQ(gauges.free, gauges.resident);
    }
    EXPECT_TRUE(cache.index().empty());
  }
  const SchedulerMetrics metrics = scheduler_->metrics();
  EXPECT_EQ(metrics.added, metrics.finished);
  EXPECT_EQ(metrics.running + metrics.waiting + metrics.in_flight_steps, 0);
}

void Simulation::report(Coverage& coverage) const {
  const SchedulerMetrics metrics = scheduler_->metrics();
  coverage.steps += counts_.steps, coverage.copies += counts_.copies, coverage.releases += counts_.releases;
  coverage.cancelled += counts_.cancelled, coverage.failed += counts_.failed, coverage.finished += counts_.finished;
  coverage.slot_rows += counts_.slot_rows, coverage.refused += counts_.refused;
  coverage.yields += metrics.yields;
  coverage.preemptions += metrics.preemptions, coverage.cached += metrics.cached_tokens;
  coverage.resumed_cached += metrics.resumed_cached_tokens, coverage.discarded += metrics.discarded_tokens;
  coverage.read += worker_->positions_read;
  coverage.entries += counts_.entries, coverage.table_blocks += counts_.table_blocks;
  coverage.replaced += counts_.replaced;
  coverage.drafted += worker_->drafts_checked, coverage.accepted += worker_->drafts_accepted;
  coverage.left_out += worker_->rows_left_out, coverage.out_of_memory += counts_.out_of_memory;
  coverage.shared += worker_->shared_steps, coverage.waits += counts_.waits, coverage.past += counts_.past;
  coverage.moved += counts_.moved, coverage.levelled += counts_.levelled;
}

void print(const Coverage& coverage) {
  std::printf(
      "steps %lu, finished %lu, cancelled %lu, failed %lu, refused %lu, preemptions %lu, cached tokens %lu, after "
      "preemptions %lu, "
      "copies %lu, releases %lu, discarded tokens %lu, rows from slots %lu, positions read %lu, table entries sent %lu "
      "of %lu used, %lu replaced, drafts checked %lu, accepted %lu, rows left out %lu, gone on at another home %lu, "
      "steps of several homes %lu, begun beside others %lu, waiting for others %lu, for finished ones %lu\n",
      coverage.steps, coverage.finished, coverage.cancelled, coverage.failed, coverage.refused, coverage.preemptions,
      coverage.cached, coverage.resumed_cached, coverage.copies, coverage.releases, coverage.discarded,
      coverage.slot_rows, coverage.read, coverage.entries, coverage.table_blocks, coverage.replaced, coverage.drafted,
      coverage.accepted, coverage.left_out, coverage.moved, coverage.levelled, coverage.shared, coverage.waits,
      coverage.past);
}

TEST(Simulation, HundredThousandSteps) {
  Coverage coverage;
  for (uint32_t seed = 1; seed <= kConfigurations; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(seed, 1, 1).run(coverage);
    if (HasFailure()) return;
  }
  print(coverage);
  EXPECT_GT(coverage.steps, 100000u);
  EXPECT_GT(coverage.yields, 500u);
  EXPECT_GT(coverage.preemptions, 1000u);  // the load must reach what is to be tested
  EXPECT_GT(coverage.resumed_cached, 1000u);
  EXPECT_GT(coverage.copies, 1000u);
  EXPECT_GT(coverage.releases, 1000u);
  EXPECT_GT(coverage.failed, 50u);
  EXPECT_GT(coverage.discarded, 100u);
  EXPECT_GT(coverage.replaced, 1000u);
  EXPECT_GT(coverage.drafted, 80000u);
  EXPECT_GT(coverage.accepted, 30000u);
  EXPECT_GT(coverage.left_out, 100u);
  EXPECT_LT(coverage.entries * 3, coverage.table_blocks);  // differences, not whole tables
}

// Whoever finds no memory ends; all others go on with the right answers, and nothing is left over.
TEST(Simulation, MemoryRunsOut) {
  Coverage coverage;
  const uint64_t failed = FailingAllocations::failed();
  for (const auto& [homes, stages] : {std::pair{1, 1}, {2, 1}, {1, 2}})
    for (uint32_t seed = 1; seed <= kConfigurations / 4; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", homes " + std::to_string(homes) + ", stages " +
                   std::to_string(stages));
      Simulation(seed, homes, stages, 0.1).run(coverage);
      if (HasFailure()) return;
    }
  print(coverage);
  std::printf("%lu allocations failed, %lu sequences with them\n", FailingAllocations::failed() - failed,
              coverage.out_of_memory);
  EXPECT_GT(FailingAllocations::failed() - failed, 5000u);
  EXPECT_GT(coverage.out_of_memory, 3000u);
  EXPECT_GT(coverage.finished, 5000u);
  EXPECT_GT(coverage.copies, 100u);
  EXPECT_GT(coverage.preemptions, 100u);
}

TEST(Simulation, SeveralHomes) {
  for (int homes : {2, 4, 8}) {
    Coverage coverage;
    for (uint32_t seed = 1; seed <= kConfigurations / 5; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", homes " + std::to_string(homes));
      Simulation(seed, homes, 1).run(coverage);
      if (HasFailure()) return;
    }
    print(coverage);
    EXPECT_GT(coverage.preemptions, 100u);
    EXPECT_GT(coverage.moved, 50u);
    EXPECT_GT(coverage.levelled, 10000u);
    EXPECT_GT(coverage.copies, 500u);
    EXPECT_GT(coverage.releases, 500u);
    EXPECT_GT(coverage.replaced, 200u);
    EXPECT_GT(coverage.accepted, 5000u);
  }
}

TEST(Simulation, SeveralStages) {
  for (int stages : {2, 3, 4}) {
    for (int homes : {1, 2}) {
      Coverage coverage;
      for (uint32_t seed = 1; seed <= kConfigurations / 8; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed) + ", stages " + std::to_string(stages) + ", homes " +
                     std::to_string(homes));
        Simulation(seed, homes, stages).run(coverage);
        if (HasFailure()) return;
      }
      print(coverage);
      EXPECT_GT(coverage.shared, 5000u);
      EXPECT_GT(coverage.past, 500u);
      EXPECT_LT(coverage.waits * 4, coverage.steps);
      EXPECT_GT(coverage.preemptions, 50u);
      EXPECT_GT(coverage.copies, 200u);
      EXPECT_GT(coverage.releases, 500u);
      EXPECT_GT(coverage.replaced, 500u);
      EXPECT_GT(coverage.accepted, 3000u);
      EXPECT_GT(coverage.left_out, 20u);
    }
  }
}

}  // namespace
}  // namespace weft
