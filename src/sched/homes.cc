// Which home a sequence gets, and how many prompt tokens each home takes in a step.
#include <algorithm>
#include <limits>
#include <utility>

#include "sched/home.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"

namespace weft {
namespace {

// A sequence that generates keeps its home busy beyond its prompt. How far is not known: as many decode rows count as
// it may have, but no more than this. (In trials with random prompts 1 to 128 were equal, and where prompts share a
// prefix, less than 64 let too many gather where it is cached.)
constexpr int kDecodesCounted = 64;

}  // namespace

int fill_level(std::span<const Home> homes, int tokens) {
  int64_t wanted = 0;
  int low = 0, high = 0;
  for (const Home& home : homes) wanted += home.demand, high = std::max(high, home.depth + home.demand);
  const int64_t goal = std::min<int64_t>(tokens, wanted);
  while (low < high) {
    const int middle = low + (high - low) / 2;
    int64_t taken = 0;
    for (const Home& home : homes) taken += std::clamp(middle - home.depth, 0, home.demand);
    if (taken >= goal) high = middle;
    else low = middle + 1;
  }
  return low;
}

CacheManager& Scheduler::cache_of(const Sequence& sequence) { return homes_[sequence.home].cache; }
const CacheManager& Scheduler::cache_of(const Sequence& sequence) const { return homes_[sequence.home].cache; }

uint64_t Scheduler::cache_version() const {
  uint64_t sum = 0;
  for (const Home& home : homes_) sum += home.cache.version();
  return sum;
}

// Positions that the sequence, of whose known tokens `cached` need not be computed, has still to compute.
int Scheduler::work_left(const Sequence& sequence, int cached) const {
  const int decodes = std::min(sequence.max_outputs - sequence.outputs(), kDecodesCounted);
  return std::max(0, sequence.known() - cached) + std::max(0, decodes);
}

// What a step could take of its prompt from position `first` on.
int Scheduler::prompt_demand(const Sequence& sequence, int first) const {
  const int most =
      sequence.wants_rows() ? std::min(options_.max_num_tokens, options_.max_logit_rows) : options_.max_num_tokens;
  return std::clamp(sequence.known() - first, 0, most);
}

// Chooses the home of a sequence that waits: of the open ones with room, where it would be through first. False: there
// is none.
bool Scheduler::place(Sequence& sequence) {
  if (sequence.placed_at == sharing_ && !homes_[sequence.home].closed) return true;
  if (!sequence.started) {
    const int expected = sequence.prompt_tokens + sequence.max_outputs;
    sequence.start(static_cast<size_t>(expected));
    homes_[0].cache.start(sequence.cache, std::move(sequence.identity), sequence.prompt_tokens, expected);
    sequence.started = true;
  }
  Home* best = nullptr;
  int best_first = 0;
  const auto end_of_work = [&](const Home& home, int first) { return home.work + work_left(sequence, first); };
  for (Home& home : homes_) {
    if (home.closed) continue;
    int first = 0;
    if (homes_.size() > 1) {
      const CacheManager::Prospect found = home.cache.look_up(sequence.cache, sequence.tokens, cache_limit(sequence),
                                                              reach(sequence, sequence.known(), 0));
      if (found.bytes > home.cache.available_bytes()) continue;
      first = home.cache.first_query(found.cached);
    }
    if (best != nullptr) {
      const int64_t difference = end_of_work(home, first) - end_of_work(*best, best_first);
      if (difference > 0) continue;
      if (difference == 0 && home.cache.available_bytes() <= best->cache.available_bytes()) continue;
    }
    best = &home, best_first = first;
  }
  if (best == nullptr) return false;
  sequence.home = static_cast<int>(best - homes_.data());
  sequence.placed_at = sharing_;
  best->work += work_left(sequence, best_first);
  best->demand = std::min(best->demand + prompt_demand(sequence, best_first), options_.max_num_tokens);
  return true;
}

// Shares the budget of prompt tokens out, so that the homes are filled to the same level: a step lasts as long as its
// fullest home. Sequences that wait are placed as far as their prompts are needed for it. `before_decodes`: the step
// has no decode rows yet.
void Scheduler::share_out(const Budget& budget, bool before_decodes) {
  ++sharing_;
  for (Home& home : homes_) {
    home.depth = home.load, home.demand = home.turns = 0, home.work = 0, home.served = home.closed = false;
    home.share = std::numeric_limits<int>::max();
  }
  waits_for_prompts_ = false;
  if (homes_.size() == 1) return;
  const Sequence* first = nullptr;  // in rank, of all prompts
  for (const Sequence* sequence : running_) {
    Home& home = homes_[sequence->home];
    home.work += work_left(*sequence, sequence->scheduled);
    if (sequence->last_step == step_) continue;
    home.turns += before_decodes && sequence->ready_to_decode();
    if (!sequence->ready_to_prefill()) continue;
    home.demand = std::min(home.demand + prompt_demand(*sequence, sequence->scheduled), options_.max_num_tokens);
    if (first == nullptr) first = sequence;
  }
  for (Home& home : homes_) home.depth += divide_up(home.turns, at_once_);
  const int homes = static_cast<int>(homes_.size()), tokens = std::min(budget.tokens, budget.prompt_tokens);
  const bool prompts_run = first != nullptr, all_placed = place_waiting(tokens);
  const int level = fill_level(homes_, tokens);
  for (Home& home : homes_) home.share = std::max(0, level - home.depth);
  // Whoever is first in rank goes on, however full its home is.
  turns_.begin_walk();
  const Sequence* const next = turns_.next(now());
  if (next && next->placed_at == sharing_ && (!first || next->outranks(*first))) first = next;
  if (first != nullptr) homes_[first->home].share = std::max(homes_[first->home].share, divide_up(tokens, homes));
  waits_for_prompts_ =
      !prompts_run && all_placed && turns_.waiting() < homes_.size() &&
      std::ranges::any_of(homes_, [&](const Home& home) { return home.demand == 0 && home.depth < level; });
}

// Places sequences that wait, by their turns, until every home has enough to be filled evenly. True: all of them.
bool Scheduler::place_waiting(int tokens) {
  int64_t depth = 0;
  for (const Home& home : homes_) depth += home.depth;
  const auto homes = static_cast<int64_t>(homes_.size());
  const int64_t even = (depth + tokens + homes - 1) / homes;
  const auto lacks = [&](const Home& home) { return home.depth + home.demand < even; };
  size_t slots = free_slots_.size();
  turns_.begin_walk();
  while (Sequence* sequence = turns_.next(now())) {
    if (slots == 0 || !std::ranges::any_of(homes_, lacks)) return false;
    const Admission known = may_admit(*sequence);
    if (known == Admission::shared) {
      turns_.skip_request(*sequence);
      continue;
    }
    if (known == Admission::no_memory || known == Admission::owes) {
      turns_.skip(*sequence);
      continue;
    }
    if (known != Admission::admitted) return false;
    bool placed = false;
    if (!try_for(*sequence, nullptr, [&] { placed = place(*sequence); })) continue;  // its end begins: no walk shows it
    if (!placed) return false;
    --slots;
    turns_.take(*sequence);
  }
  return true;
}

// Whether prompts are held back so that more may come: those that wait would fill some homes and leave others idle
// beside them, decode rows use the time, and none waits longer than it may.
bool Scheduler::holds_prompts_back() const {
  if (options_.balance_wait_us == 0 || !waits_for_prompts_ || filling().rows.empty()) return false;
  bool waited = false;
  turns_.for_each([&](const Sequence& sequence) { waited |= now_us_ - sequence.added_us >= options_.balance_wait_us; });
  return !waited;
}

// Of the step that was filled: the balance of its homes, for the metrics.
void Scheduler::count_balance() {
  constexpr double kFading = 31.0 / 32;
  int sum = 0, most = 0;
  for (const Home& home : homes_) sum += home.load, most = std::max(most, home.load);
  const int paced = most * static_cast<int>(homes_.size());
  metrics_.paced_tokens += static_cast<uint64_t>(paced);
  recent_tokens_ = kFading * recent_tokens_ + sum, recent_paced_ = kFading * recent_paced_ + paced;
}

std::vector<HomeMetrics> Scheduler::home_metrics() const {
  std::vector<HomeMetrics> all(homes_.size());
  for (size_t h = 0; h < homes_.size(); ++h) {
    const CacheManager& cache = homes_[h].cache;
    for (int g = 0; g < cache.groups(); ++g) all[h].blocks += cache.gauges(g);
    all[h].cache_bytes = cache.options().budget_bytes - cache.available_bytes();
    all[h].prompt_tokens = homes_[h].prompt_tokens;
  }
  for (const Sequence* sequence : running_) ++all[sequence->home].running;
  return all;
}

std::pair<std::vector<CacheEvent>, uint64_t> Scheduler::take_cache_events() {
  std::vector<CacheEvent> all;
  uint64_t next = 0;
  for (size_t h = 0; h < homes_.size(); ++h) {
    for (CacheEvent& event : homes_[h].cache.take_events()) {
      event.home = static_cast<int>(h);
      all.push_back(std::move(event));
    }
    next += homes_[h].cache.next_event_id();
  }
  // Homes count their events separately. Events of different homes have no order, so they are numbered as if all that
  // are missing had come first.
  for (size_t i = 0; i < all.size(); ++i) all[i].id = next - all.size() + i;
  return {std::move(all), next};
}

}  // namespace weft
